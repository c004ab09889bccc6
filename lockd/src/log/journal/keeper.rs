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

use super::{
    checkpoint::{self, Name},
    floor::Floors,
    folder::{self, File, Folder},
    room,
};
use crate::log::Floor;

/// Jobs that wait. There is at most one of each kind, but for trims.
const WAITING: usize = 8;

/// Something to do.
pub(super) enum Job {
    /// Makes a spare of this name and size.
    Spare(String, u64),
    /// Makes a checkpoint durable. It has this many chunks and bytes.
    Finish(Arc<dyn File>, Name, u64, u64),
    /// Puts a floor in force, and gives up what it makes needless.
    Trim(Trim),
}

/// A floor to put in force.
pub(super) struct Trim {
    pub(super) journal: u128,
    pub(super) floor: Floor,
    /// The first segment that is still needed.
    pub(super) first: u64,
    pub(super) remove: Vec<String>,
    /// Segments to make spares of, with their new names.
    pub(super) recycle: Vec<(String, String)>,
}

/// What was done.
pub(super) enum Done {
    Spare(String, io::Result<()>),
    Finish(Name, u64, u64, io::Result<()>),
    /// These became spares.
    Trim(io::Result<Vec<String>>),
}

/// Does jobs.
pub(super) struct Hands {
    pub(super) folder: Arc<dyn Folder>,
    pub(super) floors: Floors,
}

/// Has jobs done.
pub(super) struct Keeper {
    under_way: usize,
    way: Way,
    waker: Arc<AtomicWaker>,
}

enum Way {
    AtOnce(Hands, VecDeque<Done>),
    Thread { jobs: Option<SyncSender<Job>>, done: Receiver<Done>, thread: Option<JoinHandle<()>> },
}

impl Hands {
    fn run(&mut self, job: Job) -> Done {
        let folder = &*self.folder;
        match job {
            Job::Spare(name, bytes) => {
                let made = room::make(folder, &name, bytes);
                Done::Spare(name, made)
            }
            Job::Finish(file, name, chunks, bytes) => {
                Done::Finish(name, chunks, bytes, checkpoint::finish(folder, &*file, name))
            }
            Job::Trim(trim) => Done::Trim(self.trim(trim)),
        }
    }

    fn trim(&mut self, trim: Trim) -> io::Result<Vec<String>> {
        let folder = &*self.folder;
        self.floors.write(trim.journal, trim.first, trim.floor)?;
        for (segment, spare) in &trim.recycle {
            folder.rename(segment, spare)?;
        }
        for name in &trim.remove {
            folder::remove_if_there(folder, name)?;
        }
        // Where a power failure undoes this, the floor's first segment says that they are dead.
        Ok(trim.recycle.into_iter().map(|(_, spare)| spare).collect())
    }
}

impl Keeper {
    /// Does every job when it is given.
    pub(super) fn at_once(hands: Hands) -> Self {
        let way = Way::AtOnce(hands, VecDeque::new());
        Self { under_way: 0, way, waker: Arc::default() }
    }

    /// Does jobs on a thread.
    pub(super) fn thread(mut hands: Hands) -> io::Result<Self> {
        let (jobs, given) = sync_channel::<Job>(WAITING);
        let (finished, done) = sync_channel(WAITING);
        let waker = Arc::<AtomicWaker>::default();
        let wakes = waker.clone();
        let work = move || {
            for job in given {
                if finished.send(hands.run(job)).is_err() {
                    return;
                }
                wakes.wake();
            }
        };
        let thread = std::thread::Builder::new().name("journal keeper".to_owned()).spawn(work)?;
        let way = Way::Thread { jobs: Some(jobs), done, thread: Some(thread) };
        Ok(Self { under_way: 0, way, waker })
    }

    /// Has a job done. What comes of it is [`finished`](Self::finished) later.
    pub(super) fn start(&mut self, job: Job) -> io::Result<()> {
        self.under_way += 1;
        match &mut self.way {
            Way::AtOnce(hands, done) => done.push_back(hands.run(job)),
            Way::Thread { jobs, .. } => {
                let sent = jobs.as_ref().map(|jobs| jobs.try_send(job).is_ok());
                sent.filter(|sent| *sent).ok_or_else(|| io::Error::other("its keeper is gone"))?;
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
        if self.under_way == 0 {
            return None;
        }
        let done = match &mut self.way {
            Way::AtOnce(_, done) => done.pop_front(),
            Way::Thread { done, .. } => done.try_recv().ok(),
        };
        self.under_way -= usize::from(done.is_some());
        done
    }

    /// Waits for a job to be done; `None` where none is under way.
    pub(super) fn wait(&mut self) -> Option<Done> {
        if self.under_way == 0 {
            return None;
        }
        let done = match &mut self.way {
            Way::AtOnce(_, done) => done.pop_front(),
            Way::Thread { done, .. } => done.recv().ok(),
        };
        self.under_way -= usize::from(done.is_some());
        done
    }
}

impl Drop for Keeper {
    /// Waits for the thread, so that the folder can be opened again.
    fn drop(&mut self) {
        if let Way::Thread { jobs, done, thread } = &mut self.way {
            drop(jobs.take());
            while done.recv().is_ok() {}
            if let Some(thread) = thread.take() {
                // A panic there was reported when it happened.
                drop(thread.join());
            }
        }
    }
}
