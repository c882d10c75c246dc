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
    pub fn run(&self) {
        let mut file = llama::model();
        (self.fault)(&mut file);
        let outcome = check(self.id, &file.bytes());
        match (self.culprit, &outcome) {
            (Some(culprit), Outcome::Refused(reason)) => {
                assert!(reason.contains(culprit), "{}: {reason:?} does not name {culprit:?}", self.id);
            }
            (None, Outcome::Loaded) => {}
            _ => panic!("{}: {outcome:?}", self.id),
        }
    }
}
