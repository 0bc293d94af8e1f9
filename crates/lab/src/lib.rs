//! The lab: three members on one machine, real processes, real faults, and the judge of what was promised.
//! Serves `hansa demo` and the end-to-end tests. It uses hansa only as an outsider can: command line, YAML
//! files, sockets, signals. It links no other crate of hansa, and no component knows that it is in a lab.

pub mod clock;
pub mod config;
pub mod load;
pub mod lookup;
pub mod net;
pub mod process;
pub mod samples;
pub mod serve;
pub mod sh;
pub mod spec;
pub mod state;
