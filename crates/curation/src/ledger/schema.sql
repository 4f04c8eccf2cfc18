-- All tables of a ledger. `docs/curation.md` describes them for users; that page and this file change together.
-- Names are interned where they repeat by the million: `licences`, `reasons`, `stages`.

CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- Rows of the source.
CREATE TABLE IF NOT EXISTS licences (id INTEGER PRIMARY KEY, name TEXT NOT NULL, url TEXT NOT NULL, UNIQUE (name, url));
CREATE TABLE IF NOT EXISTS photos (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, photographer TEXT, photographer_id TEXT, title TEXT, date_taken TEXT,
  latitude REAL, longitude REAL, page_url TEXT, image_url TEXT, licence INTEGER REFERENCES licences, label TEXT, locator TEXT);

-- Stages and their decisions.
CREATE TABLE IF NOT EXISTS stages (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0,
  position TEXT, kept INTEGER, dropped INTEGER, seconds REAL NOT NULL DEFAULT 0, finished TEXT);
CREATE TABLE IF NOT EXISTS reasons (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS decisions (
  stage INTEGER NOT NULL, photo INTEGER NOT NULL, kept INTEGER NOT NULL, reason INTEGER REFERENCES reasons, score REAL,
  PRIMARY KEY (stage, photo)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS details (
  stage INTEGER NOT NULL, photo INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (stage, photo)) WITHOUT ROWID;

-- Facts about files.
CREATE TABLE IF NOT EXISTS fetches (
  photo INTEGER PRIMARY KEY, url TEXT NOT NULL, final_url TEXT, status INTEGER, attempts INTEGER NOT NULL, bytes INTEGER);
CREATE TABLE IF NOT EXISTS contents (photo INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, stage INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS images (
  photo INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, bytes INTEGER NOT NULL, width_px INTEGER, height_px INTEGER, hash BLOB);
CREATE TABLE IF NOT EXISTS embedded (photo INTEGER NOT NULL, kind TEXT NOT NULL, PRIMARY KEY (photo, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pairs (
  photo INTEGER NOT NULL, other INTEGER NOT NULL, kind TEXT NOT NULL, distance INTEGER NOT NULL,
  PRIMARY KEY (photo, other)) WITHOUT ROWID;

-- What annotators said, and the samples of audits.
CREATE TABLE IF NOT EXISTS annotators (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, joined TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
  id INTEGER PRIMARY KEY, sample INTEGER NOT NULL, key TEXT NOT NULL, annotator INTEGER NOT NULL REFERENCES annotators,
  categories TEXT NOT NULL, batch INTEGER NOT NULL, answered TEXT NOT NULL, sha256 BLOB,
  state TEXT NOT NULL DEFAULT 'current', replaces INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS answers_current ON answers (sample, key, annotator) WHERE state = 'current';
CREATE INDEX IF NOT EXISTS answers_batch ON answers (sample, annotator, batch);
CREATE TABLE IF NOT EXISTS samples (
  id INTEGER PRIMARY KEY, stage TEXT NOT NULL, seed INTEGER NOT NULL, photos INTEGER NOT NULL, population INTEGER NOT NULL,
  population_sha256 BLOB NOT NULL, drawn TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sample_photos (
  sample INTEGER NOT NULL, place INTEGER NOT NULL, key TEXT NOT NULL, PRIMARY KEY (sample, place)) WITHOUT ROWID;

-- Takedowns, which no stage that decides anew undoes.
CREATE TABLE IF NOT EXISTS takedowns (key TEXT PRIMARY KEY, sha256 BLOB, asked TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS takedown_contents (sha256 BLOB PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;

-- Releases.
CREATE TABLE IF NOT EXISTS releases (
  version INTEGER PRIMARY KEY, made TEXT NOT NULL, folder TEXT NOT NULL, fingerprint TEXT NOT NULL, records INTEGER NOT NULL,
  added INTEGER NOT NULL, removed INTEGER NOT NULL, note TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS release_photos (
  version INTEGER NOT NULL, shard INTEGER NOT NULL, place INTEGER NOT NULL, key TEXT NOT NULL, sha256 BLOB,
  PRIMARY KEY (version, shard, place)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS release_photos_key ON release_photos (key);
CREATE TABLE IF NOT EXISTS release_originals (
  key TEXT NOT NULL, version INTEGER NOT NULL, sha256 BLOB NOT NULL, PRIMARY KEY (key, version)) WITHOUT ROWID;

CREATE VIEW IF NOT EXISTS decision_log AS
  SELECT s.name AS stage, p.id AS photo, p.key AS key, d.kept AS kept, r.name AS reason, d.score AS score, t.text AS detail
  FROM decisions d JOIN stages s ON s.id = d.stage JOIN photos p ON p.id = d.photo
  LEFT JOIN reasons r ON r.id = d.reason LEFT JOIN details t ON t.stage = d.stage AND t.photo = d.photo;
