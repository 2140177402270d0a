//! Which instructions the processor has. This is the only place that asks.

/// Optional instructions of x86-64 that compiled programs can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// `shlx`, `shrx`, `sarx`, `rorx`.
    pub bmi2: bool,
    /// `movbe`.
    pub movbe: bool,
    /// `crc32`.
    pub sse42: bool,
}

impl Features {
    /// What every x86-64 processor has: none of them.
    pub const BASELINE: Self = Self { bmi2: false, movbe: false, sse42: false };

    /// What this processor has; `None` if programs cannot be compiled for it, so that the interpreter has
    /// to run them.
    #[must_use]
    pub fn detect() -> Option<Self> {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        {
            Some(Self {
                bmi2: std::is_x86_feature_detected!("bmi2"),
                movbe: std::is_x86_feature_detected!("movbe"),
                sse42: std::is_x86_feature_detected!("sse4.2"),
            })
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        {
            None
        }
    }
}
