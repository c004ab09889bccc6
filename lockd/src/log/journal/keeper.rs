//! What must not hold up records: zeroing spares, syncing a checkpoint, trimming.
//!
//! A thread of its own does it, one job after the other. Tests, and a journal in memory, have it
//! done at once.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    task::Waker,
    thread::JoinHandle,
};

use futures::task::AtomicWaker;

use super::{Journal, folder::Folder};
use crate::log::LogError;

/// Jobs that wait. There is at most one of each kind, but for trims.
const WAITING: usize = 8;

/// Something to do in the folder.
pub(super) type Job = Box<dyn FnOnce(&dyn Folder) -> Done + Send>;

/// What follows from it for the journal.
pub(super) type Done = Box<dyn FnOnce(&mut Journal) -> Result<(), LogError> + Send>;

/// Has jobs done.
pub(super) struct Keeper {
    folder: Arc<dyn Folder>,
    under_way: usize,
    /// Jobs that were done at once.
    done: VecDeque<Done>,
    thread: Option<Thread>,
    waker: Arc<AtomicWaker>,
}

struct Thread {
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    handle: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Does every job when it is given.
    pub(super) fn at_once(folder: Arc<dyn Folder>) -> Self {
        let (waker, done) = (Arc::default(), VecDeque::new());
        Self { folder, under_way: 0, done, thread: None, waker }
    }

    /// Does jobs on a thread.
    pub(super) fn thread(folder: Arc<dyn Folder>) -> io::Result<Self> {
        let mut keeper = Self::at_once(folder.clone());
        let (jobs, given) = sync_channel::<Job>(WAITING);
        let (finished, done) = sync_channel(WAITING);
        let wakes = keeper.waker.clone();
        let work = move || {
            for job in given {
                if finished.send(job(&*folder)).is_err() {
                    return;
                }
                wakes.wake();
            }
        };
        let thread = std::thread::Builder::new().name("journal keeper".to_owned());
        let handle = Some(thread.spawn(work)?);
        keeper.thread = Some(Thread { jobs: Some(jobs), done, handle });
        Ok(keeper)
    }

    /// The folder that they are done in.
    pub(super) fn folder(&self) -> Arc<dyn Folder> {
        self.folder.clone()
    }

    /// Has a job done. What comes of it is [`finished`](Self::finished) later.
    pub(super) fn start(&mut self, job: Job) -> io::Result<()> {
        self.under_way += 1;
        match &self.thread {
            None => self.done.push_back(job(&*self.folder)),
            Some(thread) => {
                let sent = thread.jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok());
                sent.then_some(()).ok_or_else(|| io::Error::other("its keeper is gone"))?;
            }
        }
        Ok(())
    }

    /// Who is woken when a job is done.
    pub(super) fn wake(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// A job that is done, if there is one.
    pub(super) fn finished(&mut self) -> Option<Done> {
        self.take(|done| done.try_recv().ok())
    }

    /// Waits for a job to be done; `None` where none is under way.
    pub(super) fn wait(&mut self) -> Option<Done> {
        self.take(|done| done.recv().ok())
    }

    fn take(&mut self, receive: impl FnOnce(&Receiver<Done>) -> Option<Done>) -> Option<Done> {
        if self.under_way == 0 {
            return None;
        }
        let done = self.done.pop_front();
        let done = done.or_else(|| receive(&self.thread.as_ref()?.done));
        self.under_way -= usize::from(done.is_some());
        done
    }
}

impl Drop for Thread {
    /// Waits for the thread, so that the folder can be opened again.
    fn drop(&mut self) {
        drop(self.jobs.take());
        while self.done.recv().is_ok() {}
        if let Some(handle) = self.handle.take() {
            // A panic there was reported when it happened.
            drop(handle.join());
        }
    }
}
