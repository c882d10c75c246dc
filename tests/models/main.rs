//! Whole models against references computed elsewhere.

mod goldens;
mod real;
mod support;
