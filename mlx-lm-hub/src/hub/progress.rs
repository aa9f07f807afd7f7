//! Progress of one download.

use super::Blob;
use mlx_lm_common::{OnProgress, Progress};
use std::sync::atomic::{AtomicU64, Ordering};

/// Adds up the bytes of all files.
pub(super) struct Meter<'a> {
    report: OnProgress<'a>,
    repo: String,
    done: AtomicU64,
    total: u64,
}

impl<'a> Meter<'a> {
    /// `total`: bytes of all files, those in the cache included.
    pub(super) fn new(report: OnProgress<'a>, repo: String, total: u64) -> Meter<'a> {
        Meter { report, repo, done: AtomicU64::new(0), total }
    }

    /// A file that is there already.
    pub(super) fn complete(&self, name: &str, size: u64) {
        (self.report)(Progress { what: name.into(), done: size, total: size });
        self.add(size);
    }

    /// `blob` has `now` bytes. A transfer that starts anew moves nothing until it has passed `best`, the most so far.
    pub(super) fn advance(&self, blob: &Blob, best: &mut u64, now: u64) {
        if now <= *best {
            return;
        }
        for name in &blob.names {
            (self.report)(Progress { what: name.clone(), done: now, total: blob.size });
            self.add(now - *best);
        }
        *best = now;
    }

    /// So many bytes more, of whichever file.
    pub(super) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        (self.report)(Progress { what: self.repo.clone(), done, total: self.total });
    }
}
