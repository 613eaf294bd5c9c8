//! A version as a qcow2 that is written nowhere: its layout follows from the version's extents, so any range of it can be made.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use slipway_api::Problem;
use slipway_chunk::Root;
use slipway_format::{Qcow2Layout, Qcow2Marks, Qcow2Part};
use slipway_store::{ContentReader, SpaceId};

use super::download::{ACT, PIECE, content_reader};
use crate::core::Core;
use crate::http::failure::blocking;
use crate::http::stream::Pieces;
use crate::rules::store_problem::store_problem;
use crate::rules::version::VersionContent;

/// Layouts that are kept, each of at most a few MiB: a client that asks for many ranges would walk the extents for each of them.
const LAYOUTS_MAX: usize = 8;

type Key = (Vec<SpaceId>, Root);

/// Kept for those who read the same spaces: whether others had it made cannot be told from the time it takes.
static LAYOUTS: Mutex<VecDeque<(Key, Arc<Qcow2Layout>)>> = Mutex::new(VecDeque::new());

/// Where everything is in the qcow2 of a version.
pub(super) async fn layout_of(core: &Arc<Core>, content: &VersionContent) -> Result<Arc<Qcow2Layout>, Problem> {
    let key = (content.spaces.clone(), content.version.root);
    let kept = || LAYOUTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, layout)) = kept().iter().find(|(found, _)| *found == key) {
        return Ok(layout.clone());
    }
    let (core, asked) = (core.clone(), key.clone());
    let layout = blocking(ACT, move || layout_make(content_reader(&core, &asked.0, &asked.1)?)).await?;
    let layout = Arc::new(layout);
    let mut layouts = kept();
    layouts.push_back((key, layout.clone()));
    if layouts.len() > LAYOUTS_MAX {
        layouts.pop_front();
    }
    Ok(layout)
}

fn layout_make(mut reader: ContentReader) -> Result<Qcow2Layout, Problem> {
    let mut marks = Qcow2Marks::new(reader.size());
    let mut at = 0;
    while let Some(stretch) = reader.extents_from(at).map_err(|error| store_problem(ACT, error))? {
        if !stretch.hole {
            marks.data(at, stretch.len);
        }
        at += stretch.len;
    }
    Ok(marks.layout())
}

/// The bytes `at..end` of the qcow2.
pub(super) struct Qcow2Pieces {
    pub(super) reader: ContentReader,
    pub(super) layout: Arc<Qcow2Layout>,
    pub(super) at: u64,
    pub(super) end: u64,
}

impl Pieces for Qcow2Pieces {
    fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.at >= self.end {
            return Ok(None);
        }
        let piece = match self.layout.part_at(self.at, PIECE.min(self.end - self.at)) {
            Qcow2Part::Tables(bytes) => bytes,
            Qcow2Part::Raw { from, len, zeros } => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                let mut piece = vec![0; len + usize::try_from(zeros).unwrap_or(usize::MAX)];
                self.reader.read_at(from, &mut piece[..len]).map_err(|error| store_problem(ACT, error))?;
                piece
            }
        };
        self.at += piece.len() as u64;
        Ok(Some(Bytes::from(piece)))
    }
}
