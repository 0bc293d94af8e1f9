//! Holds nothing: this package exists for the rings in its `tests/`, which may depend on everything.
//! Nobody calls it.
