//! Sockets of an engine in another process: [`Server`] offers those of an [`crate::engine::XskHost`] at a Unix
//! socket, [`RemoteHome`] is where an application opens them, with the same API and without any privilege.
//!
//! System calls become messages, one answer for each request. Rings and packet memory are shared: the server makes
//! rings in memfds and passes them (`SCM_RIGHTS`), the application passes the memfd of its [`crate::Umem`]
//! ([`crate::Umem::shared`]), and an eventfd says that packets came. The server believes nothing that it is told:
//! sizes of files are sealed, numbers of sockets are those of the same connection, and addresses are checked as in
//! one process. When either side ends, the other goes on: an application's sockets are closed with its connection,
//! and without its engine a socket answers `ENXIO`, as when a device is gone.

mod client;
mod message;
mod server;

pub use client::RemoteHome;
pub use server::{Rules, SOCKETS_MAX, Server, UMEM_MAX};
