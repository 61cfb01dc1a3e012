//! Short programs, one idea each; each starts all that it needs, and ends with an error if what it shows is not so.
//!
//! | `cargo run -p callboard-demos --bin` | shows |
//! | --- | --- |
//! | `rpc` | a server's described methods, called in three styles; an error that says what to do |
//! | `registry` | providers that come and go, and a caller that hears of it and never loses a call |
//! | `topics` | publishers and subscribers; messages of any type |
//! | `embedded` | a center inside a program, which serves methods of its own on the same port |
//! | `blocking` | the client for programs without a runtime |
