-- What is known to be wrong with what is stored. One row per object, however often it is seen: the key of a blob, or `content ROOT`.
-- `blob` is the row that it is about, if any; `closed_at` is set when it is over.
CREATE TABLE finding (
    id TEXT NOT NULL PRIMARY KEY,
    object TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    blob TEXT,
    detail TEXT NOT NULL,
    source TEXT NOT NULL,
    repaired TEXT,
    found_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    closed_at BIGINT
);
CREATE INDEX finding_closed ON finding (closed_at, id);
CREATE INDEX finding_blob ON finding (blob);

-- Contents that cannot be read in full because of it. A content may be gone by now.
CREATE TABLE finding_hit (
    finding_id TEXT NOT NULL REFERENCES finding (id),
    content_id TEXT NOT NULL,
    PRIMARY KEY (finding_id, content_id)
);
CREATE INDEX finding_hit_content ON finding_hit (content_id);

-- The one scrub of this store. `cursor` is the id of the last blob that was read in the pass under way, which is none when `begun_at`
-- is null: ids are random, so their order is as good as any. `last_*` are of the last pass that came to its end.
CREATE TABLE scrub (
    name TEXT NOT NULL PRIMARY KEY,
    paused BIGINT NOT NULL,
    pass BIGINT NOT NULL,
    cursor TEXT NOT NULL,
    begun_at BIGINT,
    blobs BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    findings BIGINT NOT NULL,
    last_begun_at BIGINT,
    last_ended_at BIGINT,
    last_blobs BIGINT NOT NULL,
    last_bytes BIGINT NOT NULL,
    last_findings BIGINT NOT NULL
);
INSERT INTO scrub (name, paused, pass, cursor, blobs, bytes, findings, last_blobs, last_bytes, last_findings)
VALUES ('store', 0, 0, '', 0, 0, 0, 0, 0, 0);

-- How far the hashing of a content is, so that a restart need not begin anew. `state` is JSON.
CREATE TABLE digest_part (
    content_id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    state TEXT NOT NULL,
    saved_at BIGINT NOT NULL
);
