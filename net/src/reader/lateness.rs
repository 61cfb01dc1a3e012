//! How long a started frame may take.

use callboard_common::Protocol;
use tokio::time::{Duration, Instant};

use super::Reader;
use crate::Conn;
use crate::later::later;

/// When a frame began to come, and went on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started {
    pub(super) first_byte: Instant,
    pub(super) last_byte: Instant,
}

impl Reader {
    /// When the started frame is given up, if nothing comes until then. While we don't read, its time stands still.
    pub(crate) fn gives_up_at<P: Protocol>(&self, conn: &Conn<P>) -> Option<Instant> {
        let shared = conn.shared();
        let started = self.started.filter(|_| self.paused_at.is_none())?;
        let frame_bytes = shared.protocol.frame_bytes(&self.pending);
        let silence = later(started.last_byte, shared.limits.frame_silence);
        Some(silence.min(later(started.first_byte, shared.limits.frame_time(frame_bytes))))
    }

    /// Some of the started frame was worked on, and nothing read since its last byte came: that time is ours.
    pub(super) fn goes_on<P: Protocol>(&mut self, conn: &Conn<P>) {
        let now = Instant::now();
        if let Some(started) = &mut self.started {
            started.first_byte += now.saturating_duration_since(started.last_byte);
            started.last_byte = now;
            conn.set_part_since(Some(now));
        }
    }

    pub(super) fn pause(&mut self) {
        self.paused = true;
        if self.started.is_some() {
            self.paused_at.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn resume(&mut self) {
        self.paused = false;
        if let (Some(paused_at), Some(started)) = (self.paused_at.take(), &mut self.started) {
            let pause: Duration = paused_at.elapsed();
            started.first_byte += pause;
            started.last_byte += pause;
        }
    }
}
