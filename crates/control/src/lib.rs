//! What a user can ask of a home of XDP programs, and see of it: the [`Backend`] trait.
//!
//! There are two homes, the engine (`machine`) and the running kernel (`linux`). Both take the same
//! [`bpf::object::ObjectSpec`] and answer in the same terms, so that everything above them is written once.

mod backend;
pub mod scene;
mod test_run;
mod verification;

pub use backend::{Backend, EngineKind, LoadError, LoadOptions, Loaded, MapInfo, OutputEvent, ProgramInfo};
pub use test_run::{RedirectTarget, SCRIPTED_HELPERS, ScriptedCall, TestRun, TestRunError, TestRunOutput};
pub use verification::{Refusal, Verification};
