//! Files of at most 800 lines, functions of at most 70.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{Rules, Source};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

pub(super) fn check(sources: &[Source], rules: &Rules) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut seen = vec![false; rules.long_function.len()];
    for source in sources.iter().filter(|s| s.is_rust()) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            complaints.push(format!("{}: {lines} lines; which two things is it?", source.path));
        }
        let file = match syn::parse_file(&source.text) {
            Ok(file) => file,
            Err(e) => {
                complaints.push(format!("{}: not Rust: {e}", source.path));
                continue;
            }
        };
        let mut functions = Functions::default();
        functions.visit_file(&file);
        for (name, line, length) in functions.long {
            let exempt = rules.long_function.iter().position(|l| l.file == source.path && l.name == name);
            match exempt {
                Some(i) => seen[i] = true,
                None => complaints.push(format!(
                    "{}:{line}: {name} has {length} lines, more than {FUNCTION_LINES_MAX}",
                    source.path
                )),
            }
        }
    }
    let unused = rules.long_function.iter().zip(seen).filter(|(_, seen)| !seen);
    complaints.extend(
        unused.map(|(l, _)| format!("xtask/tidy.toml: {} in {} is not long any more", l.name, l.file)),
    );
    complaints
}

/// Collects functions that are too long.
#[derive(Default)]
struct Functions {
    long: Vec<(String, usize, usize)>,
}

impl Functions {
    fn add(&mut self, name: &syn::Ident, whole: proc_macro2::Span) {
        let length = whole.end().line - whole.start().line + 1;
        if length > FUNCTION_LINES_MAX {
            self.long.push((name.to_string(), whole.start().line, length));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, f: &'ast syn::ItemFn) {
        self.add(&f.sig.ident, f.sig.span().join(f.block.span()).unwrap_or_else(|| f.block.span()));
        visit::visit_item_fn(self, f);
    }

    fn visit_impl_item_fn(&mut self, f: &'ast syn::ImplItemFn) {
        self.add(&f.sig.ident, f.sig.span().join(f.block.span()).unwrap_or_else(|| f.block.span()));
        visit::visit_impl_item_fn(self, f);
    }
}
