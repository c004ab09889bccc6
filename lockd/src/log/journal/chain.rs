//! Which segments belong to the journal: from the last one back, by what each header says of the
//! segment before it.

use std::collections::BTreeMap;

use super::{
    floor::Kept,
    folder::Folder,
    mark::{self, Marked},
    refusal,
    sector::SECTOR,
    segment::{self, Header},
};
use crate::log::LogError;

/// The segments of a folder.
pub(super) struct Chain {
    /// Those that belong together, oldest first.
    pub(super) headers: Vec<Header>,
    /// The numbers of the others: nothing in them counts.
    pub(super) dead: Vec<u64>,
}

/// Finds the segments that belong together. None of their frames has been looked at.
pub(super) fn find(
    folder: &dyn Folder,
    marked: Marked,
    floor: Option<Kept>,
) -> Result<Chain, LogError> {
    let first = floor.map_or(0, |kept| kept.first);
    let listed = folder.list().map_err(|error| refusal::unusable(folder, "", &error))?;
    let numbers = listed.iter().filter_map(|name| segment::number(name));
    let (needed, mut dead): (Vec<_>, Vec<_>) = numbers.partition(|number| *number >= first);
    let mut headers = BTreeMap::new();
    for number in needed {
        headers.insert(number, header(folder, number, marked.journal)?);
    }
    if let Some(last) = headers.last_entry()
        && *last.get() == Err(segment::UNVERIFIED)
        && *last.key() > marked.segment
    {
        // It was being made. If the one before it is sealed, that is found when it is read.
        dead.push(last.remove_entry().0);
    }
    let newest = headers.last_key_value().map_or(0, |(number, _)| *number);
    if newest < marked.segment || (newest == 0 && floor.is_some()) {
        let name = segment::name(marked.segment.max(first));
        let what = format!("\"{}\" or \"{}\" says that it is there", mark::NAME, "floor");
        return Err(refusal::missing(folder, &name, &what));
    }
    let chain = walk(folder, &headers, newest, first)?;
    dead.extend(headers.keys().filter(|number| !chain.iter().any(|it| it.number == **number)));
    Ok(Chain { headers: chain, dead })
}

/// Goes back from the newest segment to the first that is needed.
fn walk(
    folder: &dyn Folder,
    headers: &BTreeMap<u64, Result<Header, &'static str>>,
    newest: u64,
    first: u64,
) -> Result<Vec<Header>, LogError> {
    let mut chain: Vec<Header> = Vec::new();
    let mut number = newest;
    while number != 0 {
        let name = segment::name(number);
        let header = match headers.get(&number) {
            Some(Ok(header)) => *header,
            Some(Err(what)) => return Err(refusal::damaged(folder, &name, 0, what)),
            None => return Err(refusal::missing(folder, &name, "the segment after it names it")),
        };
        let named = chain.last().and_then(|next| next.after).map(|after| after.id);
        if named.is_some_and(|id| id != header.id) {
            let what = "it is not the segment that the one after it names";
            return Err(refusal::damaged(folder, &name, 0, what));
        }
        chain.push(header);
        number = match header.after {
            Some(after) if after.number >= number => {
                return Err(refusal::damaged(folder, &name, 0, "it names a later one before it"));
            }
            Some(after) if after.number >= first => after.number,
            // The one before it is not needed, or there was none.
            Some(_) | None => 0,
        };
    }
    chain.reverse();
    Ok(chain)
}

/// A segment's header; what is wrong with it if it can't be used.
fn header(
    folder: &dyn Folder,
    number: u64,
    journal: u128,
) -> Result<Result<Header, &'static str>, LogError> {
    let name = segment::name(number);
    let unusable = |error| refusal::unusable(folder, &name, &error);
    let file = folder.open(&name).map_err(unusable)?;
    let bytes = file.bytes().map_err(unusable)?;
    let mut sector = vec![0; SECTOR];
    if bytes < segment::START {
        return Ok(Err("it is cut off"));
    }
    file.read_at(&mut sector, 0).map_err(unusable)?;
    Ok(Header::read(&sector).and_then(|(header, _)| match header {
        _ if header.journal != journal => Err("it belongs to another journal than the mark"),
        _ if header.number != number => Err("it has another number than its name"),
        _ if header.bytes != bytes => Err("it is cut off"),
        _ => Ok(header),
    }))
}
