//! What the journal promises, each rule by its number in RULES.

mod conformance;
