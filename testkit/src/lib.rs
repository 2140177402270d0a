//! What tests and benches share: an assembler, the instruction corpus, random programs, and runs on the
//! engine and on the running kernel. Nothing here is part of the product.

pub mod asm;
pub mod differential;
pub mod engine;
pub mod generate;
pub mod isa;
pub mod kernel;
pub mod lower;
pub mod network;
pub mod programs;
pub mod soundness;
