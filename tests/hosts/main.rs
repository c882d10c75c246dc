//! What hosts see: headers, symbols, C and C++ programs, installation, packages of other languages and
//! the README. One binary, so that its helpers are compiled once.

mod abi;
mod c;
mod consumers;
mod examples;
mod headers;
mod readme;
mod tools;
