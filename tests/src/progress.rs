//! Progress: spinners and bars in a terminal, JSON lines elsewhere; always on standard error.

use std::{
    io::{IsTerminal, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Debug)]
enum Kind {
    Terminal(MultiProgress),
    Lines,
    Quiet,
}

/// Where progress goes; cheap to clone.
#[derive(Clone, Debug)]
pub struct Progress {
    kind: Arc<Kind>,
    since: Instant,
}

impl Progress {
    /// Bars where standard error is a terminal, else JSON lines.
    pub fn new() -> Self {
        let kind = if std::io::stderr().is_terminal() { Kind::Terminal(MultiProgress::new()) } else { Kind::Lines };
        Self { kind: Arc::new(kind), since: Instant::now() }
    }

    /// Says nothing: for tests.
    pub fn quiet() -> Self {
        Self { kind: Arc::new(Kind::Quiet), since: Instant::now() }
    }

    /// One thing to do, of unknown length.
    pub fn step(&self, name: &str) -> Step {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {prefix:<22} {wide_msg}") {
            bar.set_style(style);
        }
        self.begin(name, bar)
    }

    /// `total` things to do.
    pub fn bar(&self, name: &str, total: u64) -> Step {
        let bar = ProgressBar::new(total);
        let template = "{spinner:.cyan} {prefix:<22} {bar:28.cyan/dim} {pos}/{len} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━━─"));
        }
        self.begin(name, bar)
    }

    fn begin(&self, name: &str, bar: ProgressBar) -> Step {
        let bar = match &*self.kind {
            Kind::Terminal(all) => {
                let bar = all.add(bar.with_prefix(name.to_owned()));
                bar.enable_steady_tick(Duration::from_millis(100));
                Some(bar)
            }
            Kind::Lines => {
                // it only counts
                bar.set_draw_target(ProgressDrawTarget::hidden());
                Some(bar)
            }
            Kind::Quiet => None,
        };
        let step = Step { progress: self.clone(), name: name.into(), bar, begun: Instant::now(), ended: false };
        step.line("begun", "");
        step
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// One thing under way; dropped without [`Step::done`] it counts as failed.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    name: String,
    bar: Option<ProgressBar>,
    begun: Instant,
    ended: bool,
}

impl Step {
    /// One more of a bar's things is done; each hundredth of all has a line.
    pub fn advance(&self) {
        let Some(bar) = &self.bar else { return };
        bar.inc(1);
        let (done, total) = (bar.position(), bar.length().unwrap_or(0).max(1));
        if done * 100 / total != done.saturating_sub(1) * 100 / total {
            self.line("at", &format!("{done} of {total}"));
        }
    }

    /// Says what is going on right now; in a terminal only.
    pub fn say(&self, message: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.into());
        }
    }

    /// It is done, with what came of it.
    pub fn done(mut self, message: &str) {
        self.end("✔", "done", message);
    }

    fn end(&mut self, mark: &str, state: &str, message: &str) {
        self.ended = true;
        if let Some(bar) = &self.bar {
            if let Ok(style) = ProgressStyle::with_template("{prefix:<24} {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(format!("{mark} {}", self.name));
            let elapsed_ms = self.begun.elapsed().as_millis();
            bar.finish_with_message(format!("{message} ({elapsed_ms} ms)"));
        }
        self.line(state, message);
    }

    fn line(&self, state: &str, message: &str) {
        if !matches!(*self.progress.kind, Kind::Lines) {
            return;
        }
        let line = serde_json::json!({
            "at_ms": u64::try_from(self.progress.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            "step": self.name,
            "state": state,
            "message": message,
        });
        let _nobody_reads = writeln!(std::io::stderr(), "{line}");
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.end("✘", "failed", "did not finish");
        }
    }
}
