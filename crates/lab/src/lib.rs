//! The lab: three members on one machine, real processes, real faults, and the judge of what was promised.
//! Serves `hansa demo` and the end-to-end tests. It uses hansa only as an outsider can: command line, YAML
//! files, sockets, signals. It links no other crate of hansa, and no component knows that it is in a lab.

pub mod access;
pub mod clock;
pub mod config;
pub mod demo;
pub mod judge;
pub mod lab;
pub mod ledger;
pub mod link;
pub mod load;
pub mod loadrun;
pub mod lookup;
pub mod mode;
pub mod net;
pub mod probe;
pub mod process;
pub mod promise;
pub mod report;
pub mod samples;
pub mod serve;
pub mod sh;
pub mod spec;
pub mod state;
pub mod steps;
pub mod tools;

pub use lab::{Fault, Lab, Member, Undone};
pub use spec::{LabSpec, Links, MemberId, NetMode, Sabotage};
