//! The objects that frames lie in. Each is opened once, when its first frame is seen and the process is alive, and its
//! descriptor is kept: a file that is removed or replaced later, or whose process has died, can still be read. The
//! number of open descriptors is capped; the one not used for longest is closed, and opened again by path when it is
//! needed, which then counts only if it still is the same file. The root directory of a container is held as well, where
//! debug files may lie.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::debug_file::{Found, Refused, Search, Wanted};
use super::outline::Outline;
use super::vdso;
use crate::object::open::{directory, mounted_identity, open_in_root, open_regular};
use crate::process::maps::{self, Mapping};

/// Most root directories held; debug files below others are not found.
const MAX_ROOTS: usize = 256;

/// Number of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub(super) u32);

/// Why an object's file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unreadable {
    /// It could not be opened: no permission, or the process was gone already.
    NotOpened,
    /// The path leads to another file than the one that is mapped, and only root can follow the mapping itself.
    Replaced,
    /// It is no ELF file of this machine's kind.
    NotElf,
    /// It was closed to save descriptors, and changed before it was needed again.
    Changed,
    /// The table of objects is full.
    TableFull,
}

impl Unreadable {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::NotOpened => "object could not be opened",
            Self::Replaced => "object was replaced or deleted (root can still read it)",
            Self::NotElf => "object is no readable ELF file",
            Self::Changed => "object changed before it was read",
            Self::TableFull => "too many objects",
        }
    }
}

/// What makes two files the same for our purposes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Identity of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    device: (u32, u32),
    inode: u64,
    build_id: Option<Vec<u8>>,
    stamp: Option<Stamp>,
}

/// One object.
#[derive(Debug)]
pub struct Object {
    /// Its path as the first target saw it.
    pub path: Option<PathBuf>,
    /// Its headers, or why they could not be read.
    pub outline: Result<Outline, Unreadable>,
    mapping: Mapping,
    pid: u32,
    stamp: Stamp,
    file: Option<File>,
    /// It cannot be opened again.
    pinned: bool,
    /// The first target's root directory, unless it is the host's.
    root: Option<Arc<OwnedFd>>,
    used: u64,
}

/// One mapping of one process image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seen {
    start: u64,
    end: u64,
    offset: u64,
    device: (u32, u32),
    inode: u64,
}

/// All objects.
#[derive(Debug)]
pub struct Objects {
    objects: Vec<Object>,
    by_key: HashMap<Key, ObjectId>,
    by_mapping: HashMap<u32, HashMap<Seen, ObjectId>>,
    /// By mount, device and inode.
    roots: HashMap<(u64, u64, u64), Arc<OwnedFd>>,
    own_root: Option<(u64, u64, u64)>,
    /// The vDSO, by its length; `None` where it is not ours.
    vdso: HashMap<u64, Option<ObjectId>>,
    open: usize,
    max_open: usize,
    max_objects: usize,
    clock: u64,
}

impl Objects {
    /// At most `max_objects` of them, at most `max_open` open.
    pub fn new(max_objects: usize, max_open: usize) -> Self {
        Self {
            objects: Vec::new(),
            by_key: HashMap::new(),
            by_mapping: HashMap::new(),
            roots: HashMap::new(),
            own_root: directory(Path::new("/")).and_then(|root| mounted_identity(&root)).ok(),
            vdso: HashMap::new(),
            open: 0,
            max_open: max_open.max(1),
            max_objects,
            clock: 0,
        }
    }

    /// The object behind a mapping of the vDSO; `None` if it is another image than this process's own.
    pub fn intern_vdso(&mut self, pid: u32, mapping: &Mapping) -> Option<ObjectId> {
        if let Some(&known) = self.vdso.get(&mapping.len()) {
            return known;
        }
        // Images have some pages: whatever lengths are seen, they are few.
        if self.vdso.len() >= 64 {
            return None;
        }
        let id = vdso::image(mapping.len()).and_then(|file| self.insert_vdso(pid, mapping, file));
        self.vdso.insert(mapping.len(), id);
        id
    }

    fn insert_vdso(&mut self, pid: u32, mapping: &Mapping, file: File) -> Option<ObjectId> {
        let outline = Outline::read(&file).ok()?;
        let object = Object {
            path: Some(PathBuf::from(crate::process::vdso::LABEL)),
            outline: Ok(outline),
            mapping: mapping.clone(),
            pid,
            stamp: Stamp::default(),
            file: Some(file),
            pinned: true,
            root: None,
            used: 0,
        };
        self.push(object)
    }

    /// The object behind a file mapping of a process; `None` if the table is full. Opens the file unless this mapping
    /// of this process image was seen before.
    pub fn intern(&mut self, pid: u32, serial: u32, mapping: &Mapping) -> Option<ObjectId> {
        let seen = Seen {
            start: mapping.start.0,
            end: mapping.end.0,
            offset: mapping.offset.0,
            device: mapping.device,
            inode: mapping.inode,
        };
        if let Some(&known) = self.by_mapping.get(&serial).and_then(|mappings| mappings.get(&seen)) {
            return Some(known);
        }
        let id = self.insert(pid, mapping)?;
        let mappings = self.by_mapping.entry(serial).or_default();
        // A process that maps and unmaps without end would fill memory: what is dropped is only looked up again.
        if mappings.len() >= self.max_objects {
            mappings.clear();
        }
        mappings.insert(seen, id);
        Some(id)
    }

    /// Forgets which mappings a process image had; its objects stay.
    pub fn forget_process(&mut self, serial: u32) {
        self.by_mapping.remove(&serial);
    }

    /// An object.
    pub fn get(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(id.0 as usize)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// How many are open now.
    pub fn open(&self) -> usize {
        self.open
    }

    /// The object's file, opened again if need be.
    pub fn file(&mut self, id: ObjectId) -> Result<File, Unreadable> {
        self.clock += 1;
        let clock = self.clock;
        let object = self.objects.get_mut(id.0 as usize).ok_or(Unreadable::TableFull)?;
        object.outline.as_ref().map_err(|&reason| reason)?;
        object.used = clock;
        if object.file.is_none() {
            object.file = Some(object.reopen()?);
            self.open += 1;
        }
        let file = object.file.as_ref().and_then(|file| file.try_clone().ok()).ok_or(Unreadable::NotOpened);
        self.close_surplus();
        file
    }

    /// The separate debug file of an object. Files that do not fit are counted in `refused`.
    pub fn debug_file(
        &mut self,
        id: ObjectId,
        directories: &[PathBuf],
        refused: &mut BTreeMap<Refused, u64>,
    ) -> Option<Found> {
        let file = self.file(id).ok()?;
        let object = self.get(id).filter(|object| !object.pinned)?;
        let outline = object.outline.as_ref().ok()?;
        let link = outline.debug_link(&file);
        let wanted = Wanted {
            build_id: outline.build_id.as_deref(),
            link: link.as_ref().map(|(name, checksum)| (name.as_str(), *checksum)),
            path: object.path.as_deref(),
        };
        Search { root: object.root.as_deref(), directories, refused }.find(&wanted)
    }

    /// The file that an object's debug file shares with others.
    pub fn shared_debug_file(
        &self,
        id: ObjectId,
        debug_file: &Found,
        directories: &[PathBuf],
        refused: &mut BTreeMap<Refused, u64>,
    ) -> Option<Found> {
        let object = self.get(id)?;
        let (path, build_id) = debug_file.outline.alternate_link(&debug_file.file)?;
        let mut search = Search { root: object.root.as_deref(), directories, refused };
        search.find_shared(&debug_file.path, &path, &build_id)
    }

    /// Holds the root directory of a process, if it is not the host's.
    fn root_of(&mut self, pid: u32) -> Option<Arc<OwnedFd>> {
        let root = directory(&PathBuf::from(format!("/proc/{pid}/root"))).ok()?;
        let identity = mounted_identity(&root).ok().filter(|&identity| Some(identity) != self.own_root)?;
        if let Some(known) = self.roots.get(&identity) {
            return Some(Arc::clone(known));
        }
        let root = Arc::new(root);
        if self.roots.len() < MAX_ROOTS {
            self.roots.insert(identity, Arc::clone(&root));
            return Some(root);
        }
        None
    }

    fn insert(&mut self, pid: u32, mapping: &Mapping) -> Option<ObjectId> {
        let opened = open(pid, mapping);
        let (file, stamp, outline) = match opened {
            Ok((file, stamp)) => match Outline::read(&file) {
                Ok(outline) => (Some(file), Some(stamp), Ok(outline)),
                Err(_) => (None, Some(stamp), Err(Unreadable::NotElf)),
            },
            Err(reason) => (None, None, Err(reason)),
        };
        let build_id = outline.as_ref().ok().and_then(|outline| outline.build_id.clone());
        let key = Key { device: mapping.device, inode: mapping.inode, build_id, stamp };
        if let Some(&known) = self.by_key.get(&key) {
            return Some(known);
        }
        if self.objects.len() >= self.max_objects {
            return None;
        }
        self.clock += 1;
        self.open += usize::from(file.is_some());
        let (stamp, used) = (stamp.unwrap_or_default(), self.clock);
        let (path, mapping, root) = (mapping.path.clone(), mapping.clone(), self.root_of(pid));
        let id = self.push(Object { path, outline, mapping, pid, stamp, file, pinned: false, root, used })?;
        self.by_key.insert(key, id);
        self.close_surplus();
        Some(id)
    }

    fn push(&mut self, object: Object) -> Option<ObjectId> {
        if self.objects.len() >= self.max_objects {
            return None;
        }
        let id = ObjectId(u32::try_from(self.objects.len()).ok()?);
        self.objects.push(object);
        Some(id)
    }

    fn close_surplus(&mut self) {
        while self.open > self.max_open {
            let open = self.objects.iter_mut().filter(|object| object.file.is_some() && !object.pinned);
            let Some(oldest) = open.min_by_key(|object| object.used) else { return };
            oldest.file = None;
            self.open -= 1;
        }
    }
}

impl Object {
    /// Through the first process, or from the host's own path.
    fn reopen(&self) -> Result<File, Unreadable> {
        let through_process = open(self.pid, &self.mapping).ok().map(|(file, _)| file);
        let on_host = || open_regular(self.path.as_deref()?).ok();
        let file = [through_process, on_host()].into_iter().flatten().find(|file| self.is_same(file));
        file.ok_or(Unreadable::Changed)
    }

    fn is_same(&self, file: &File) -> bool {
        let stamp = file.metadata().map(|metadata| Stamp::of(&metadata));
        let build_id = self.outline.as_ref().ok().and_then(|outline| outline.build_id.as_ref());
        stamp.is_ok_and(|stamp| stamp == self.stamp)
            && Outline::read(file).is_ok_and(|outline| outline.build_id.as_ref() == build_id)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Opens the file behind a mapping: the mapping itself where that is permitted, else by path, which counts only if the
/// inode is the one that is mapped. (The device may differ: overlayfs and btrfs report another one to `stat`.)
fn open(pid: u32, mapping: &Mapping) -> Result<(File, Stamp), Unreadable> {
    if let Ok(file) = open_regular(&maps::map_files_path(pid, mapping)) {
        return stamped(file);
    }
    let path = mapping.path.as_deref().ok_or(Unreadable::NotOpened)?;
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let refused = if mapping.deleted { Unreadable::Replaced } else { Unreadable::NotOpened };
    let (file, stamp) = stamped(open_in_root(&root, Path::new(path)).map_err(|_| refused)?)?;
    if stamp.inode == mapping.inode && !mapping.deleted {
        Ok((file, stamp))
    } else {
        Err(Unreadable::Replaced)
    }
}

fn stamped(file: File) -> Result<(File, Stamp), Unreadable> {
    let metadata = file.metadata().map_err(|_| Unreadable::NotOpened)?;
    Ok((file, Stamp::of(&metadata)))
}
