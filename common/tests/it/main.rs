//! The wire from outside of the crate: what was captured, what is hostile, what must hold for every input, and a second
//! implementation of each seam.
//!
//! - `golden`: the captured frames, at every split point.
//! - `hostile`: every row of the contract's section 5 that a decoder or the dispatcher answers.
//! - `identity`: what is encoded is what is decoded, for each body in both codecs.
//! - `stream`: reads may cut a stream anywhere, and random bytes never panic.
//! - `seams`: [`bencode`] (a codec), [`lines`] (a protocol) and [`runs`] (a filter of bodies) beside the real ones.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can't go on should say where")]

mod bencode;
mod golden;
mod hostile;
mod identity;
mod lines;
mod runs;
mod seams;
mod stream;
mod support;
