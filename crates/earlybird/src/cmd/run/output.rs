//! The pcapng file of `--out` and the progress bar.

use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::path::Path;

use anyhow::{Context, Result};
use control::TestRunOutput;
use earlybird::capture::{CapturedPacket, InterfaceId, PacketOptions, Writer};
use indicatif::{ProgressBar, ProgressStyle};

/// Captures shorter than this need no progress bar, bytes.
const LONG_CAPTURE: u64 = 1 << 20;

/// What is written while packets run.
pub(super) struct Outputs {
    capture: Option<Capture>,
    progress: Option<ProgressBar>,
    packets: u64,
}

struct Capture {
    writer: Writer<BufWriter<File>>,
    entry: InterfaceId,
    exit: InterfaceId,
    path: String,
}

impl Outputs {
    pub(super) fn open(path: Option<&Path>, program: &str, size: u64) -> Result<Self> {
        let capture = path.map(|path| Capture::create(path, program)).transpose()?;
        let progress = (size > LONG_CAPTURE && std::io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {msg} packets, {eta} left");
            ProgressBar::new(size).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Ok(Self { capture, progress, packets: 0 })
    }

    pub(super) fn packet(
        &mut self,
        packet: &CapturedPacket,
        output: &TestRunOutput,
        queue: u32,
    ) -> Result<()> {
        self.packets += 1;
        if let Some(progress) = &self.progress {
            progress.inc(packet.data.len() as u64 + 16);
            if self.packets.is_multiple_of(1024) {
                progress.set_message(self.packets.to_string());
            }
        }
        match &mut self.capture {
            Some(capture) => capture.packet(self.packets, packet, output, queue),
            None => Ok(()),
        }
    }

    pub(super) fn finish(self) -> Result<()> {
        if let Some(progress) = &self.progress {
            progress.finish_and_clear();
        }
        match self.capture {
            Some(capture) => capture.writer.finish().map(drop).context(capture.path),
            None => Ok(()),
        }
    }
}

impl Capture {
    fn create(path: &Path, program: &str) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::create(path).with_context(|| name.clone())?;
        let mut writer = Writer::new(BufWriter::new(file)).with_context(|| name.clone())?;
        let entry = writer.interface(&format!("{program}@fentry")).with_context(|| name.clone())?;
        let exit = writer.interface(&format!("{program}@fexit")).with_context(|| name.clone())?;
        Ok(Self { writer, entry, exit, path: name })
    }

    fn packet(&mut self, id: u64, packet: &CapturedPacket, output: &TestRunOutput, queue: u32) -> Result<()> {
        let at_entry = PacketOptions { queue: Some(queue), packet_id: Some(id), verdict: None };
        let at_exit = PacketOptions { verdict: Some(output.retval), ..at_entry };
        let metadata = (output.ctx.data as usize).min(output.data.len());
        let mut write = |interface, data: &[u8], options| {
            self.writer.packet(interface, packet.time_ns, data, options).context(self.path.clone())
        };
        write(self.entry, &packet.data, at_entry)?;
        write(self.exit, &output.data[metadata..], at_exit)
    }
}
