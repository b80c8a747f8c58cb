//! [`NameServer`]: one server, with a table of registrations in memory.
//!
//! | file | what |
//! | --- | --- |
//! | [`builder`], [`name_server`] | settings, and a running server |
//! | [`service`] | the provider of the contract |
//! | [`table`], [`changes`], [`queries`] | the operations of sessions and consumers |
//! | [`table_state`], [`stored_registration`] | the registrations and their sessions |
//! | [`reports`], [`checked_registration`] | reports and their registrations, decoded and checked |
//! | [`service_record`], [`registration_map`], [`packed`] | one service of the table, its registrations, its encoded list |
//! | [`leases`] | when each session was last renewed |
//! | [`identity`], [`rights`], [`policy`], [`policy_file`] | the identity of a client and its rights |
//! | [`quota`], [`accounts`] | the limits of a client and its current use |
//! | [`audit`] | changes and refusals in the log |

mod accounts;
mod audit;
mod builder;
mod changes;
mod checked_registration;
mod identity;
mod leases;
mod name_server;
mod packed;
mod policy;
mod policy_file;
mod queries;
mod quota;
mod registration_map;
mod reports;
mod rights;
mod service;
mod service_record;
mod stored_registration;
mod table;
mod table_state;

pub use self::builder::NameServerBuilder;
pub use self::name_server::{NameServer, Reload};
pub use self::quota::Quota;
