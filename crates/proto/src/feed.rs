//! The feed: how rows of any type get from one publisher to its followers.
//!
//! [`publish`] is used by the controller, [`follow`] by gateways, DNS servers and the controllers of
//! peers. Nothing here knows what a row means; nothing here spawns a task of its own.
