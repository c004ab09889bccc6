//! What the journal promises, each rule by its number in RULES.

mod crash;
mod damage;
mod failure;
mod folder;
mod frames;
mod full;
mod machine;
mod records;
mod restored;
mod story;
