//! A named case: a fault, and what must become of it.

use crate::check::{Outcome, check};
use crate::forge::{GgufFile, llama};

/// One fault in an otherwise sound file.
pub struct Case {
    /// Which hazard this is, and which variant of it.
    pub id: &'static str,
    pub fault: fn(&mut GgufFile),
    /// `Some`: refused, for a reason that says this. `None`: loads.
    pub culprit: Option<&'static str>,
}

pub const fn refused(id: &'static str, culprit: &'static str, fault: fn(&mut GgufFile)) -> Case {
    Case { id, fault, culprit: Some(culprit) }
}

pub const fn loads(id: &'static str, fault: fn(&mut GgufFile)) -> Case {
    Case { id, fault, culprit: None }
}

impl Case {
    /// What went otherwise than it must.
    pub fn complaint(&self) -> Option<String> {
        let mut file = llama::model();
        (self.fault)(&mut file);
        self.complaint_of(check(self.id, &file.bytes()))
    }

    /// What is wrong with what became of the file.
    pub fn complaint_of(&self, outcome: Outcome) -> Option<String> {
        complaint_of(self.id, self.culprit, outcome)
    }
}

/// What is wrong with what became of a file, if it was to be refused for `culprit`, or else to load.
pub fn complaint_of(id: &str, culprit: Option<&str>, outcome: Outcome) -> Option<String> {
    match (culprit, outcome) {
        (Some(culprit), Outcome::Refused(reason)) if reason.contains(culprit) => None,
        (None, Outcome::Loaded) => None,
        (Some(culprit), outcome) => Some(format!("{id}: {outcome:?} does not name {culprit:?}")),
        (None, outcome) => Some(format!("{id}: {outcome:?}")),
    }
}
