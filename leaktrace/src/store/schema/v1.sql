CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;

CREATE TABLE subjects (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start_ticks INTEGER NOT NULL,
    started REAL NOT NULL,
    command TEXT NOT NULL,
    container TEXT,
    cgroup TEXT,
    scope TEXT NOT NULL,
    first_seen REAL NOT NULL
);

CREATE TABLE memory (
    id INTEGER PRIMARY KEY,
    subject INTEGER NOT NULL REFERENCES subjects ON DELETE CASCADE,
    at REAL NOT NULL,
    anonymous INTEGER NOT NULL,
    swap INTEGER NOT NULL,
    rss INTEGER NOT NULL,
    cpu REAL NOT NULL,
    processes INTEGER NOT NULL,
    cgroup_current INTEGER,
    cgroup_anonymous INTEGER,
    cgroup_file INTEGER,
    cgroup_swap INTEGER,
    cgroup_reclaimable INTEGER,
    cgroup_limit INTEGER,
    cgroup_oom_kills INTEGER
);
CREATE INDEX memory_of ON memory (subject, at);

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    subject INTEGER NOT NULL REFERENCES subjects ON DELETE CASCADE,
    detail TEXT NOT NULL,
    began REAL NOT NULL,
    ended REAL,
    reason TEXT NOT NULL,
    outcome TEXT,
    predicted_slowdown REAL
);
CREATE INDEX sessions_of ON sessions (subject);

CREATE TABLE reports (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    started REAL NOT NULL,
    elapsed REAL NOT NULL,
    interval REAL NOT NULL,
    min_age REAL NOT NULL,
    version TEXT NOT NULL,
    kernel TEXT NOT NULL,
    ended TEXT NOT NULL,
    truth TEXT NOT NULL
);
CREATE INDEX reports_of ON reports (session);
CREATE INDEX reports_at ON reports (at);

CREATE TABLE images (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
    pid INTEGER NOT NULL,
    serial INTEGER NOT NULL,
    name TEXT NOT NULL,
    command TEXT NOT NULL,
    container TEXT,
    namespace_pids TEXT NOT NULL,
    late REAL,
    application_root TEXT,
    rss_at_attach INTEGER,
    UNIQUE (session, pid, serial)
);

CREATE TABLE process_readings (
    report INTEGER NOT NULL REFERENCES reports ON DELETE CASCADE,
    image INTEGER NOT NULL,
    ended TEXT,
    rss INTEGER,
    live_bytes INTEGER NOT NULL,
    live_blocks INTEGER NOT NULL,
    survivor_bytes INTEGER NOT NULL,
    survivor_blocks INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL,
    allocated_blocks INTEGER NOT NULL,
    growth_bytes_per_hour REAL,
    growth_observed REAL,
    growth_steady REAL,
    python TEXT,
    PRIMARY KEY (report, image)
) WITHOUT ROWID;

CREATE TABLE strings (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
);

CREATE TABLE frames (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    function INTEGER,
    object INTEGER,
    build_id INTEGER,
    file INTEGER,
    line INTEGER,
    file_offset INTEGER,
    virtual_offset INTEGER,
    address INTEGER,
    inlined INTEGER NOT NULL,
    interpreter INTEGER NOT NULL
);

CREATE TABLE stacks (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    domain INTEGER NOT NULL,
    label INTEGER,
    truncated INTEGER,
    frames TEXT NOT NULL
);

CREATE TABLE sites (
    id INTEGER PRIMARY KEY,
    subject INTEGER NOT NULL REFERENCES subjects ON DELETE CASCADE,
    key BLOB NOT NULL,
    stack INTEGER,
    first_seen REAL NOT NULL,
    UNIQUE (subject, key)
);

CREATE TABLE site_readings (
    report INTEGER NOT NULL REFERENCES reports ON DELETE CASCADE,
    image INTEGER NOT NULL,
    stack INTEGER NOT NULL,
    site INTEGER NOT NULL,
    live_bytes INTEGER NOT NULL,
    live_blocks INTEGER NOT NULL,
    survivor_bytes INTEGER NOT NULL,
    survivor_blocks INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL,
    allocated_blocks INTEGER NOT NULL,
    growth_bytes_per_hour REAL,
    growth_observed REAL,
    growth_steady REAL,
    ages TEXT,
    examined INTEGER,
    holding INTEGER,
    PRIMARY KEY (report, image, stack)
) WITHOUT ROWID;

CREATE TABLE verdicts (
    id INTEGER PRIMARY KEY,
    site INTEGER NOT NULL REFERENCES sites ON DELETE CASCADE,
    began REAL NOT NULL,
    at REAL NOT NULL,
    shape TEXT NOT NULL,
    confidence REAL NOT NULL,
    bytes_per_hour REAL NOT NULL,
    since REAL,
    share_of_growth REAL,
    survival REAL,
    watched REAL NOT NULL,
    because TEXT NOT NULL
);
CREATE INDEX verdicts_of ON verdicts (site);

CREATE TABLE unexplained (
    id INTEGER PRIMARY KEY,
    subject INTEGER NOT NULL REFERENCES subjects ON DELETE CASCADE,
    began REAL NOT NULL,
    at REAL NOT NULL,
    over REAL,
    grown_bytes INTEGER NOT NULL,
    tracked_bytes INTEGER NOT NULL,
    reasons TEXT NOT NULL
);
CREATE INDEX unexplained_of ON unexplained (subject);

CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    subject INTEGER REFERENCES subjects ON DELETE CASCADE,
    began REAL NOT NULL,
    at REAL NOT NULL,
    times INTEGER NOT NULL,
    sentence TEXT NOT NULL
);
CREATE INDEX decisions_of ON decisions (subject);

CREATE TABLE alerts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject INTEGER REFERENCES subjects ON DELETE CASCADE,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    sentence TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX alerts_of ON alerts (subject);

CREATE TABLE evidence (
    id INTEGER PRIMARY KEY,
    subject INTEGER NOT NULL REFERENCES subjects ON DELETE CASCADE,
    at REAL NOT NULL,
    reason TEXT NOT NULL,
    directory TEXT NOT NULL
);
CREATE INDEX evidence_of ON evidence (subject);
