//! Run XDP programs in user space, or on the running kernel.

pub mod capture;
pub mod run;
pub mod values;
