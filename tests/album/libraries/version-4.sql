PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE change (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    kind      TEXT NOT NULL,
    topic_id  INTEGER REFERENCES topic,
    details   TEXT NOT NULL DEFAULT '{}',
    moved     INTEGER NOT NULL DEFAULT 0,
    made_at   TEXT NOT NULL,
    undone_at TEXT
, moves TEXT NOT NULL DEFAULT '[]');
INSERT INTO "change" VALUES(1,'label',NULL,'{}',1,'2026-11-24T03:47:57+00:00',NULL,'[{"photo_id": 1, "topic": "red", "before": false, "after": true, "confidence": 0.75, "because": {"photo_id": 2, "topic": "red", "said": true, "taken_back": false}}]');
INSERT INTO "change" VALUES(2,'add-topic',3,'{"name_en": "Ours", "name_zh": "我们"}',0,'2026-11-24T03:47:57+00:00',NULL,'[]');
INSERT INTO "change" VALUES(3,'label',NULL,'{"none": true}',0,'2026-11-24T03:47:57+00:00','2026-11-24T03:47:57+00:00','[]');
INSERT INTO "change" VALUES(4,'answer',NULL,'{"answer": "no"}',0,'2026-11-24T03:47:57+00:00',NULL,'[]');
CREATE TABLE change_label (
    photo_id  INTEGER NOT NULL REFERENCES photo,
    topic_id  INTEGER NOT NULL REFERENCES topic,
    change_id INTEGER NOT NULL REFERENCES change,
    value     INTEGER NOT NULL CHECK (value IN (-1, 1)), believed REAL,
    PRIMARY KEY (photo_id, topic_id, change_id)
) WITHOUT ROWID;
INSERT INTO "change_label" VALUES(1,1,3,-1,NULL);
INSERT INTO "change_label" VALUES(1,2,3,-1,NULL);
INSERT INTO "change_label" VALUES(1,2,4,-1,0.25);
INSERT INTO "change_label" VALUES(1,3,3,-1,NULL);
INSERT INTO "change_label" VALUES(2,1,1,-1,NULL);
INSERT INTO "change_label" VALUES(2,2,1,1,NULL);
INSERT INTO "change_label" VALUES(3,3,2,1,NULL);
CREATE TABLE feature (
    photo_id INTEGER NOT NULL REFERENCES photo,
    backbone TEXT NOT NULL,
    vector   BLOB NOT NULL                    -- float16
);
INSERT INTO "feature" VALUES(1,'colours-1',X'16410F40663F693FB8B596AE2CB4CEB48AB8C4AEC5B436B8AFB475B4B1B1C0B4D7B670B46BB50EB751B434B175B2B5B5');
INSERT INTO "feature" VALUES(2,'colours-1',X'CC3EBE402041A23F4DB757B647B8D9B483B4DEB654B376B5E1B529B6AFB48EB6E1B0C7B685B6E4B48FB4DCB51BB335B0');
INSERT INTO "feature" VALUES(3,'colours-1',X'7CB400B888B210AFA5B34AB25BB469B62C40EE40B940F33F11B47DB1A9B217B6E1B661B6F3AC12AD77B33FB4C8B523B6');
CREATE TABLE file (
    path     BLOB PRIMARY KEY,
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode    INTEGER NOT NULL,
    device   INTEGER NOT NULL,
    photo_id INTEGER REFERENCES photo,
    reason   TEXT,                            -- why it is unreadable
    detail   TEXT,
    vanished INTEGER NOT NULL DEFAULT 0,
    CHECK ((photo_id IS NULL) <> (reason IS NULL))
) WITHOUT ROWID;
INSERT INTO "file" VALUES(X'2F70686F746F732F323031392F6F6E652E6A7067',1001,1700000000000000000,1,1,1,NULL,NULL,0);
INSERT INTO "file" VALUES(X'2F70686F746F732F6261642E6A7067',1009,1700000000000000000,1,1,NULL,'truncated','after 12 bytes',0);
INSERT INTO "file" VALUES(X'2F70686F746F732F636166E92E6A7067',1002,1700000000000000000,1,1,2,NULL,NULL,0);
INSERT INTO "file" VALUES(X'2F70686F746F732F676F6E652E6A7067',1001,1700000000000000000,1,1,3,NULL,NULL,1);
CREATE TABLE label (
    photo_id INTEGER NOT NULL REFERENCES photo,
    topic_id INTEGER NOT NULL REFERENCES topic,
    value    INTEGER NOT NULL CHECK (value IN (-1, 1)),
    PRIMARY KEY (photo_id, topic_id)
) WITHOUT ROWID;
INSERT INTO "label" VALUES(2,1,-1);
INSERT INTO "label" VALUES(1,2,-1);
INSERT INTO "label" VALUES(2,2,1);
INSERT INTO "label" VALUES(3,3,1);
CREATE TABLE membership (
    topic_id INTEGER PRIMARY KEY REFERENCES topic,
    photos   BLOB NOT NULL
);
INSERT INTO "membership" VALUES(1,X'02');
INSERT INTO "membership" VALUES(2,X'04');
CREATE TABLE pending (
    photo_id INTEGER PRIMARY KEY REFERENCES photo,
    replaces INTEGER REFERENCES photo         -- the photo that its file held before, if it was edited
);
INSERT INTO "pending" VALUES(3,NULL);
CREATE TABLE photo (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    content_hash TEXT NOT NULL UNIQUE,
    path         BLOB NOT NULL,               -- the file that people are shown, even once it has vanished
    byte_size    INTEGER NOT NULL,
    width        INTEGER NOT NULL,
    height       INTEGER NOT NULL,
    format       TEXT NOT NULL,
    taken        TEXT,                        -- local time, ISO 8601, no zone
    sort_date    TEXT NOT NULL,               -- taken, or else the file's time
    latitude     REAL,
    longitude    REAL,
    place        TEXT REFERENCES place,
    camera       TEXT,
    vanished     INTEGER NOT NULL DEFAULT 0,
    added_at     TEXT NOT NULL
);
INSERT INTO "photo" VALUES(1,'b6cd51adde53ef51b79b46cca4661ece6f47226af1521032bfacc7b7e9eae5ba',X'2F70686F746F732F323031392F6F6E652E6A7067',1001,4,3,'JPEG','2019-02-05T18:00:00','2019-02-05T18:00:00',47.38,8.54,'geonames-2657896','Nikon D70',0,'2026-11-24T03:47:57+00:00');
INSERT INTO "photo" VALUES(2,'7f779e8e0860dc12f4106f36f167a4ad5c5651f37f170ab4009fb105c855fdd9',X'2F70686F746F732F636166E92E6A7067',1002,4,3,'JPEG',NULL,'2023-11-14T22:13:20',NULL,NULL,NULL,NULL,0,'2026-11-24T03:47:57+00:00');
INSERT INTO "photo" VALUES(3,'e92c0a5db3a850f6ac8ce115a5eccabd69344b8d638e169945fe22788c60be1c',X'2F70686F746F732F676F6E652E6A7067',1001,4,3,'JPEG',NULL,'2023-11-14T22:13:20',NULL,NULL,NULL,NULL,1,'2026-11-24T03:47:57+00:00');
CREATE TABLE photo_text (
    photo_id INTEGER PRIMARY KEY REFERENCES photo,
    text     TEXT NOT NULL
);
INSERT INTO "photo_text" VALUES(1,'/photos/2019/one.jpg
nikon d70
zürich, switzerland
苏黎世, 瑞士');
INSERT INTO "photo_text" VALUES(2,'/photos/caf�.jpg');
INSERT INTO "photo_text" VALUES(3,'/photos/gone.jpg');
CREATE TABLE place (
    key       TEXT PRIMARY KEY,
    name_en   TEXT NOT NULL,
    name_zh   TEXT NOT NULL,
    latitude  REAL NOT NULL,
    longitude REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO "place" VALUES('geonames-2657896','Zürich, Switzerland','苏黎世, 瑞士',47.3667,8.55);
CREATE TABLE question (
    photo_id  INTEGER NOT NULL REFERENCES photo,
    topic_id  INTEGER NOT NULL REFERENCES topic,
    change_id INTEGER NOT NULL REFERENCES change,
    PRIMARY KEY (photo_id, topic_id, change_id)
) WITHOUT ROWID;
INSERT INTO "question" VALUES(1,2,4);
CREATE TABLE refinement (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    began_at TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    folder   TEXT NOT NULL,                   -- where its network is, below the folder of refinements
    previous INTEGER REFERENCES refinement,   -- what was in use before; null: what ships
    labels   INTEGER NOT NULL,                -- how many there were when it began
    outcome  TEXT NOT NULL,                   -- adopted, kept, outdated, rolled back
    result   TEXT NOT NULL                    -- figures (JSON)
);
CREATE TABLE root (
    path BLOB PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO "root" VALUES(X'2F70686F746F73');
CREATE TABLE setting (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "setting" VALUES('backbone','colours-1');
CREATE TABLE topic (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    key     TEXT NOT NULL UNIQUE,
    builtin INTEGER NOT NULL,
    given_en TEXT NOT NULL,                   -- the names that it began with
    given_zh TEXT NOT NULL,
    name_en TEXT NOT NULL,
    name_zh TEXT NOT NULL,
    hidden  INTEGER NOT NULL DEFAULT 0,
    removed INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "topic" VALUES(1,'red',1,'Red','红色','Red','红色',0,0);
INSERT INTO "topic" VALUES(2,'green',1,'Green','绿色','Green','绿色',0,0);
INSERT INTO "topic" VALUES(3,'ours',0,'Ours','我们','Ours','我们',0,0);
CREATE INDEX photo_by_date ON photo (vanished, sort_date, id);
CREATE INDEX photo_by_place ON photo (place, vanished, sort_date, id) WHERE place IS NOT NULL;
CREATE INDEX file_by_photo ON file (photo_id) WHERE photo_id IS NOT NULL;
CREATE INDEX file_unreadable ON file (reason) WHERE reason IS NOT NULL;
CREATE UNIQUE INDEX feature_of_photo ON feature (backbone, photo_id);
CREATE INDEX change_label_by_change ON change_label (change_id);
CREATE INDEX label_by_topic ON label (topic_id, value);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('topic',5);
INSERT INTO "sqlite_sequence" VALUES('photo',3);
INSERT INTO "sqlite_sequence" VALUES('change',4);
COMMIT;
