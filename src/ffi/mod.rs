//! The C interface: the functions of the contract, and what makes them safe to call with anything.
//!
//! A function resolves its handles, calls the engine, and turns the result into a code; [`guard`] sees that neither a panic
//! nor a forked child gets further. Handles are ids ([`handles`]), never addresses that are followed. Pointers for results
//! are written without assuming alignment. The only thing taken on trust is that a pointer which is not NULL points to what
//! its type says: a C library cannot check that.

mod answer;
mod codes;
mod exports;
mod ext;
mod facts;
mod guard;
mod handles;
mod load;
mod logs;
mod reason;
mod sized;
mod start;
mod text;

#[cfg(test)]
mod ext_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
