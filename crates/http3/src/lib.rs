//! HTTP/3 for tunnels on quinn: the codec and nothing else (RFC 9114, 9204,
//! 9220, 9297). [`start`] turns a QUIC connection into one side of an HTTP
//! conversation; who asks is a parameter ([`Role`]), independent of who dialled.
//! Content goes through as it lies in the packets. Spawns nothing, logs nothing,
//! pushes nothing, and uses no dynamic QPACK table.

mod code;
mod config;
mod connection;
mod driver;
mod error;
mod recv;
mod requests;
mod role;
mod send;
mod shared;
mod uni;

pub mod capsule;
pub mod control;
pub mod datagram;
pub mod frame;
pub mod fuzzing;
pub mod message;
pub mod qpack;
pub mod settings;
pub mod varint;

pub use code::Code;
pub use config::Config;
pub use connection::{Connection, Place, start};
pub use datagram::{DatagramDrops, DatagramError, DatagramReceiver, DatagramSender};
pub use driver::Driver;
pub use error::{ConnectionError, OpenError, Scope, StreamError, Violation};
pub use message::{RequestHead, ResponseHead};
pub use recv::RecvStream;
pub use requests::Requests;
pub use role::Role;
pub use send::{RespondStream, SendStream};
pub use settings::Settings;
