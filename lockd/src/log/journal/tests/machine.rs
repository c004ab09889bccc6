//! A machine whose power can fail: a folder with a page cache in front of a disk.
//!
//! Until it is synced, a write may reach the disk or not, a sector at a time and in any order; names
//! reach it in the order in which they were given. A sync that fails leaves in the cache what is not
//! on the disk, and calls it clean.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    sync::{Arc, Mutex},
};

use super::super::folder::{File, Folder};

const SECTOR: usize = 512;

/// Numbers that look random and are the same in every run.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// A folder on a machine.
#[derive(Clone)]
pub(super) struct Machine(Arc<Mutex<State>>);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// From this operation on nothing works: the process is dead.
    DeadAt(u64),
    /// This write fails, once, and half of it is done.
    WriteAt(u64),
    /// This sync fails, once.
    SyncAt(u64),
    /// No file may be written.
    ReadOnly,
}

#[derive(Clone)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending: Vec<BTreeMap<String, usize>>,
    /// Handles of an earlier life do nothing.
    life: u64,
    operations: u64,
    writes: u64,
    syncs: u64,
    fault: Fault,
    /// All files together may have this many bytes.
    room: u64,
    is_in_place: bool,
    claimed: BTreeSet<u128>,
    dice: Dice,
    /// What a crash at each operation would leave behind, where that is asked for.
    forks: Option<Vec<State>>,
}

#[derive(Clone, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that were written since the last sync, with each of their contents.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
}

struct Handle {
    machine: Machine,
    inode: usize,
    life: u64,
}

impl Machine {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            life: 0,
            operations: 0,
            writes: 0,
            syncs: 0,
            fault: Fault::None,
            room: u64::MAX,
            is_in_place: true,
            claimed: BTreeSet::new(),
            dice: Dice::new(seed),
            forks: None,
        })))
    }

    /// The process is killed, the machine goes on.
    pub(super) fn kill(&self) {
        self.0.lock().unwrap().restart();
    }

    /// The power fails.
    pub(super) fn lose_power(&self) {
        let mut state = self.0.lock().unwrap();
        state.lose_power();
        state.restart();
    }

    /// The same machine a second time.
    pub(super) fn copy(&self, seed: u64) -> Self {
        let mut state = self.0.lock().unwrap().clone();
        (state.dice, state.forks) = (Dice::new(seed), None);
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn fail(&self, fault: Fault) {
        self.0.lock().unwrap().fault = fault;
    }

    /// Leaves room for this many bytes more.
    pub(super) fn leave(&self, bytes: u64) {
        let mut state = self.0.lock().unwrap();
        state.room = state.used() + bytes;
    }

    pub(super) fn is_gone(&self) {
        self.0.lock().unwrap().is_in_place = false;
    }

    pub(super) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// How often was written, and synced.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap();
        (state.writes, state.syncs)
    }

    /// Remembers what a crash at each operation would leave.
    pub(super) fn fork(&self) {
        self.0.lock().unwrap().forks = Some(Vec::new());
    }

    /// The machines as a crash would have left them since the last call.
    pub(super) fn forks(&self) -> Vec<Machine> {
        let forks = self.0.lock().unwrap().forks.as_mut().map(std::mem::take);
        forks.unwrap_or_default().into_iter().map(|it| Machine(Arc::new(Mutex::new(it)))).collect()
    }

    /// The files whose names begin like this.
    pub(super) fn named(&self, start: &str) -> Vec<String> {
        let state = self.0.lock().unwrap();
        state.names.keys().filter(|name| name.starts_with(start)).cloned().collect()
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        state.inodes[state.names[name]].cached.clone()
    }

    /// Changes a file behind everything's back.
    pub(super) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock().unwrap();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        change(&mut inode.cached);
        inode.durable = inode.cached.clone();
        inode.dirty.clear();
    }

    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        if !self.0.lock().unwrap().names.contains_key(name) {
            self.create(name).unwrap();
            self.sync().unwrap();
        }
        self.damage(name, |all| *all = bytes);
    }

    pub(super) fn delete(&self, name: &str) {
        self.remove(name).unwrap();
        Folder::sync(self).unwrap();
    }
}

impl State {
    fn restart(&mut self) {
        self.life += 1;
        (self.fault, self.is_in_place) = (Fault::None, true);
        self.claimed.clear();
    }

    fn lose_power(&mut self) {
        let kept = self.dice.below(self.pending.len() + 1);
        if let Some(names) = kept.checked_sub(1).and_then(|last| self.pending.get(last)) {
            self.durable_names = names.clone();
        }
        (self.names, self.pending) = (self.durable_names.clone(), Vec::new());
        for inode in &mut self.inodes {
            inode.lose_power(&mut self.dice);
        }
    }

    fn used(&self) -> u64 {
        let files = self.names.values().map(|inode| self.inodes[*inode].cached.len());
        files.sum::<usize>().try_into().unwrap()
    }

    /// One operation that a crash can come before.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        self.fork_here();
        match self.fault {
            Fault::DeadAt(at) if self.operations >= at => Err(io::Error::other("dead")),
            Fault::ReadOnly => Err(ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(()),
        }
    }

    fn fork_here(&mut self) {
        if let Some(mut forks) = self.forks.take() {
            self.forget_unnamed();
            forks.push(self.clone());
            self.forks = Some(forks);
        }
    }

    /// Forgets what is in files that have no name any more, and can have none after a power failure.
    fn forget_unnamed(&mut self) {
        let named: BTreeSet<usize> = [&self.names, &self.durable_names]
            .into_iter()
            .chain(&self.pending)
            .flat_map(|names| names.values().copied())
            .collect();
        for (number, inode) in self.inodes.iter_mut().enumerate() {
            if !named.contains(&number) && !inode.cached.is_empty() {
                *inode = Inode::default();
            }
        }
    }

    fn write(&mut self, inode: usize, buffer: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let grows = (offset + buffer.len()).saturating_sub(self.inodes[inode].cached.len());
        if self.used() + u64::try_from(grows).unwrap() > self.room {
            return Err(ErrorKind::StorageFull.into());
        }
        let half = self.dice.below(buffer.len());
        if self.fault == Fault::WriteAt(self.operations) {
            // A sector is taken whole or not at all.
            let half = if buffer.len() > SECTOR { half } else { 0 };
            self.inodes[inode].write(&buffer[..half], offset);
            return Err(io::Error::other("failed write"));
        }
        if self.forks.is_some() && buffer.len() > SECTOR {
            // A kill in the middle of a write.
            let before = self.inodes[inode].clone();
            self.inodes[inode].write(&buffer[..half], offset);
            self.fork_here();
            self.inodes[inode] = before;
        }
        self.inodes[inode].write(buffer, offset);
        Ok(())
    }

    fn rename(&mut self, change: impl FnOnce(&mut BTreeMap<String, usize>)) {
        change(&mut self.names);
        self.pending.push(self.names.clone());
    }
}

impl Inode {
    fn write(&mut self, buffer: &[u8], offset: usize) {
        let end = offset + buffer.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(buffer);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let until = ((sector + 1) * SECTOR).min(self.cached.len());
            let content = self.cached[sector * SECTOR..until].to_vec();
            self.dirty.entry(sector).or_default().push(content);
        }
    }

    /// Each sector is on the disk as it was before, or as it was after any of the writes.
    fn lose_power(&mut self, dice: &mut Dice) {
        for (sector, contents) in std::mem::take(&mut self.dirty) {
            let chosen = dice.below(contents.len() + 1);
            if let Some(content) = contents.get(chosen) {
                self.reach(sector, content);
            }
        }
        self.cached = self.durable.clone();
    }

    fn reach(&mut self, sector: usize, content: &[u8]) {
        let (start, end) = (sector * SECTOR, sector * SECTOR + content.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(content);
    }

    fn sync(&mut self) {
        self.durable = self.cached.clone();
        self.dirty.clear();
    }

    /// The disk took a part, and the cache calls all of it clean.
    fn fail_to_sync(&mut self, dice: &mut Dice) {
        for (sector, contents) in std::mem::take(&mut self.dirty) {
            if let Some(content) = contents.last().filter(|_| dice.one_in(3)) {
                self.reach(sector, content);
            }
        }
    }
}

impl Folder for Machine {
    fn path(&self, name: &str) -> String {
        format!("/data/{name}")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.named(""))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let state = self.0.lock().unwrap();
        let inode = *state.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(Handle { machine: self.clone(), inode, life: state.life }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        {
            let mut state = self.0.lock().unwrap();
            state.step()?;
            state.inodes.push(Inode::default());
            let inode = state.inodes.len() - 1;
            state.rename(|names| {
                names.insert(name.to_owned(), inode);
            });
        }
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step()?;
        let inode = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
        state.rename(|names| {
            names.remove(from);
            names.insert(to.to_owned(), inode);
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step()?;
        state.names.get(name).ok_or(ErrorKind::NotFound)?;
        state.rename(|names| {
            names.remove(name);
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step()?;
        if state.fault == Fault::SyncAt(state.operations) {
            return Err(io::Error::other("failed sync"));
        }
        (state.durable_names, state.pending) = (state.names.clone(), Vec::new());
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.0.lock().unwrap();
        Ok(state.room.saturating_sub(state.used()))
    }

    fn claim(&self, journal: u128) -> io::Result<bool> {
        Ok(self.0.lock().unwrap().claimed.insert(journal))
    }

    fn is_in_place(&self, name: &str, file: &dyn File) -> bool {
        let (is_in_place, inode) = {
            let state = self.0.lock().unwrap();
            (state.is_in_place, state.names.get(name).copied())
        };
        let inode = inode.map(|inode| (0, u64::try_from(inode).unwrap()));
        is_in_place && inode.is_some() && file.identity().unwrap() == inode
    }
}

impl Handle {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.machine.0.lock().unwrap();
        if state.life != self.life {
            return Err(io::Error::other("of an earlier life"));
        }
        act(&mut state)
    }
}

impl File for Handle {
    fn bytes(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.inodes[self.inode].cached.len().try_into().unwrap()))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|state| {
            let start = usize::try_from(offset).unwrap();
            let cached = &state.inodes[self.inode].cached;
            let found = cached.get(start..start + buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(found);
            Ok(())
        })
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state| {
            state.step()?;
            state.writes += 1;
            state.write(self.inode, buffer, offset)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state| {
            state.step()?;
            state.syncs += 1;
            if state.fault == Fault::SyncAt(state.operations) {
                let mut dice = state.dice.clone();
                state.inodes[self.inode].fail_to_sync(&mut dice);
                state.dice = dice;
                return Err(io::Error::other("failed sync"));
            }
            state.inodes[self.inode].sync();
            Ok(())
        })
    }

    fn identity(&self) -> io::Result<Option<(u64, u64)>> {
        self.with(|state| {
            let is_named = state.names.values().any(|inode| *inode == self.inode);
            Ok(is_named.then_some((0, u64::try_from(self.inode).unwrap())))
        })
    }
}
