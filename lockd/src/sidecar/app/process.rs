//! The app's process: watched by a file descriptor of it, so that another one with its id is never
//! taken for it. It lives once.

use std::{io, os::fd::OwnedFd, sync::Arc, thread};

use lockd_client::Context;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::AppLife;
use crate::sidecar::{SidecarError, metrics};

/// A process that is not ours. In a pod it has to share the namespace of processes.
#[derive(Debug, Clone)]
pub(in crate::sidecar) struct Process {
    process: Arc<OwnedFd>,
    life: AppLife,
}

impl Process {
    /// The process with this id, watched by a thread: nothing else reports the end of a process
    /// that is no child.
    pub(super) fn find(pid: i32) -> Result<Self, SidecarError> {
        let unusable = |source: io::Error| SidecarError::Process { pid, source };
        let raw = Pid::from_raw(pid).filter(|_| pid > 0);
        let raw = raw.ok_or_else(|| unusable(io::ErrorKind::InvalidInput.into()))?;
        let process =
            pidfd_open(raw, PidfdFlags::empty()).map_err(|error| unusable(error.into()))?;
        let app = Self { process: Arc::new(process), life: AppLife::new() };
        metrics::app_lives();
        let watched = app.clone();
        let watch = thread::Builder::new().name("app".to_owned()).spawn(move || watched.watch());
        watch.map_err(unusable)?;
        Ok(app)
    }

    fn watch(self) {
        // Readable when it has ended: https://man7.org/linux/man-pages/man2/pidfd_open.2.html
        let mut ends = [PollFd::new(&self.process, PollFlags::IN)];
        while let Err(error) = poll(&mut ends, None) {
            if error != Errno::INTR {
                tracing::error!(%error, "the app can't be watched");
                return;
            }
        }
        metrics::app_is_silent();
        self.life.cancel();
    }

    /// Its life, unless that is over.
    pub(super) fn life(&self) -> Option<AppLife> {
        Some(self.life.clone()).filter(|life| !life.is_cancelled())
    }

    /// Asks it to end, and kills it when what is left of a leadership is over.
    pub(super) async fn stop(&self, left: &Context) {
        self.signal(Signal::TERM);
        if left.run(self.life.cancelled()).await.is_err() {
            tracing::warn!("the app has not stopped in time: killing it");
            self.signal(Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) {
        match pidfd_send_signal(&self.process, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, ?signal, "the app can't be signalled"),
        }
    }
}
