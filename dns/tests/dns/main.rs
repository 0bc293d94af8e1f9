//! The DNS server: in memory, over real sockets, and behind a controller.

mod answers;
mod controller;
mod fixture;
mod forwarding;
mod hostile;
mod sockets;
