//! Topics, as their users write them: `Subscription` on a connection of its own for each
//! subscriber; a `Publisher`.
//!
//! A message is a string of exactly the size that was asked for: the meters' binary header, four bits a letter, and
//! filling behind it.
use anyhow::{Context, Result};
use callboard::{Client, Subscription, Topics};
use load::{Opt, Publisher, SubMeter, SubShared};

use crate::address;

const TOPIC: &str = "bench.topic";

pub async fn subscribe(opt: Opt) -> Result<()> {
    let shared = SubShared::new(&opt);
    let mut subscriptions = Vec::new();
    for _ in 0..opt.subs {
        let client = Client::connect(address(&opt)).await?;
        Topics::new(&client).create(TOPIC).await?;
        subscriptions.push(Subscription::open(&client, TOPIC).await?);
    }
    load::ready();
    for subscription in subscriptions {
        tokio::spawn(hear(subscription, shared.meter()));
    }
    shared.finish(&opt).await
}

async fn hear(mut subscription: Subscription, mut meter: SubMeter) {
    while let Some(Ok(news)) = subscription.next().await {
        let Some(header) = decode(news.text().as_bytes()) else { break };
        meter.on(&header);
    }
    meter.flush();
}

pub async fn publish(opt: Opt) -> Result<()> {
    let client = Client::connect(address(&opt)).await?;
    let topics = Topics::new(&client);
    topics.create(TOPIC).await?;
    let filling = "x".repeat(opt.size.saturating_sub(LETTERS));
    let publisher = topics.publisher(TOPIC);
    load::publish(&opt, &mut CallboardPublisher { publisher, text: String::new(), filling }).await
}

struct CallboardPublisher {
    publisher: callboard::Publisher,
    text: String,
    filling: String,
}

impl Publisher for CallboardPublisher {
    async fn send(&mut self, message: &[u8]) -> Result<()> {
        let header = message.first_chunk().context("no header")?;
        self.text.clear();
        self.text.push_str(encode(header).as_str()?);
        self.text.push_str(&self.filling);
        Ok(self.publisher.publish_text(&self.text).await?)
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(self.publisher.settle().await?)
    }
}

/// Four bits a letter, three words of the header.
const LETTERS: usize = WORD_LETTERS * 3;
const WORD_LETTERS: usize = 16;

struct Letters([u8; LETTERS]);

impl Letters {
    fn as_str(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.0)?)
    }
}

fn encode(header: &[u8; 24]) -> Letters {
    let mut letters = [0; LETTERS];
    for (word, letters) in header.as_chunks::<8>().0.iter().zip(letters.as_chunks_mut::<WORD_LETTERS>().0) {
        let bits = spread(u64::from_le_bytes(*word)) | ZEROS;
        *letters = bits.to_le_bytes();
    }
    Letters(letters)
}

fn decode(text: &[u8]) -> Option<[u8; 24]> {
    let letters: &[u8; LETTERS] = text.first_chunk()?;
    let mut header = [0; 24];
    for (word, letters) in header.as_chunks_mut::<8>().0.iter_mut().zip(letters.as_chunks::<WORD_LETTERS>().0) {
        *word = gather(u128::from_le_bytes(*letters) ^ ZEROS).to_le_bytes();
    }
    Some(header)
}

/// Four bits to the low half of each byte: halves are moved apart, and halves of halves.
fn spread(word: u64) -> u128 {
    MASKS.iter().rev().fold(u128::from(word), |bits, (shift, mask)| (bits | bits << shift) & mask)
}

/// The way back.
fn gather(bits: u128) -> u64 {
    let gathered = MASKS.windows(2).fold(bits, |bits, pair| (bits | bits >> pair[0].0) & pair[1].1);
    (gathered | gathered >> 32) as u64
}

const MASKS: [(u32, u128); 4] = [
    (4, 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f),
    (8, 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff),
    (16, 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff),
    (32, 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff),
];
/// `'0'` sixteen times.
const ZEROS: u128 = 0x3030_3030_3030_3030_3030_3030_3030_3030;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_letters() {
        let mut header = [0; 24];
        load::fill(&mut header, u64::MAX - 5, load::END, 0x0123_4567_89ab_cdef);
        let letters = encode(&header);
        assert!(letters.0.iter().all(|letter| (b'0'..=b'?').contains(letter)));
        assert_eq!(decode(letters.as_str().unwrap().as_bytes()), Some(header));
    }
}
