//! Heartbeats, and ends that are silent, busy or held up.

mod busy_heartbeats;
mod heartbeats;
mod held_thread;
mod held_up;
mod silent_link;
