//! Peers that break the rules, damage on the way, mistakes of users, and limits.

mod attacks;
mod bad_input;
mod cuts;
mod frames;
mod life;
mod limits;
mod lying_hellos;
mod memory_limits;
mod reply_metadata;
