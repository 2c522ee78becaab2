//! `leaktrace top`: a trace, live in the terminal.
