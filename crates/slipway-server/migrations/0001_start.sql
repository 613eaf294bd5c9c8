-- Portable between SQLite and PostgreSQL: TEXT and BIGINT only, times in milliseconds since 1970, flags 0 or 1, ids as text,
-- lists and maps as JSON text. Migrations only go forward.

-- Numbers that are taken last in a transaction, so that their order is commit order.
CREATE TABLE counter (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counter (name, value) VALUES ('journal', 0), ('blob', 0);

-- Every change, in commit order. `tx` is the mark of its transaction: it answers whether a commit of unknown outcome happened.
CREATE TABLE journal (
    number BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    token TEXT,
    request_id TEXT,
    verb TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL,
    tx TEXT NOT NULL
);
CREATE INDEX journal_tx ON journal (tx);

-- What owns things. `kind` is user or system; a row is never removed while anything refers to it, and its id is never used again.
CREATE TABLE account (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    full_name TEXT NOT NULL,
    email TEXT,
    role TEXT NOT NULL,
    disabled BIGINT NOT NULL,
    password TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    revision BIGINT NOT NULL
);
INSERT INTO account (id, name, kind, full_name, email, role, disabled, password, created_at, updated_at, revision)
VALUES ('00000000-0000-0000-0000-000000000000', 'system', 'system', 'System', NULL, 'user', 1, NULL, 0, 0, 1);

-- `hash` is of the secret; `scopes` are separated by spaces; `sign_in` ones end when the password changes.
CREATE TABLE token (
    id TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (id),
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_used_at BIGINT,
    sign_in BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX token_account ON token (account_id);
CREATE INDEX token_expires ON token (expires_at);

-- The one-time code of a server without an admin.
CREATE TABLE setup_code (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- `spaces` is a JSON list: where new chunks go first, then where they may be looked up besides.
-- A slug stays taken while its image is in the trash. `next_number` only grows.
CREATE TABLE image (
    id TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (id),
    slug TEXT NOT NULL,
    title TEXT NOT NULL,
    image_type TEXT NOT NULL,
    file_system TEXT,
    compression TEXT NOT NULL,
    target_location TEXT,
    associated TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    spaces TEXT NOT NULL,
    public BIGINT NOT NULL,
    share_task TEXT,
    protected BIGINT NOT NULL,
    next_number BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    trashed_at BIGINT,
    revision BIGINT NOT NULL,
    UNIQUE (account_id, slug)
);
CREATE INDEX image_trashed ON image (trashed_at);

-- Accounts that may read an image now.
CREATE TABLE image_reader (
    image_id TEXT NOT NULL REFERENCES image (id),
    account_id TEXT NOT NULL REFERENCES account (id),
    PRIMARY KEY (image_id, account_id)
);
CREATE INDEX image_reader_account ON image_reader (account_id);

-- Immutable bytes. `spaces` is where its blobs lie; moving a content to other readers changes it, never the root.
CREATE TABLE content (
    id TEXT NOT NULL PRIMARY KEY,
    root TEXT NOT NULL,
    spaces TEXT NOT NULL,
    size BIGINT NOT NULL,
    sector_size BIGINT NOT NULL,
    source_format TEXT NOT NULL,
    data_bytes BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    new_bytes BIGINT NOT NULL,
    digest TEXT,
    sha256 TEXT,
    claimed_digest TEXT,
    created_at BIGINT NOT NULL
);

CREATE TABLE version (
    image_id TEXT NOT NULL REFERENCES image (id),
    number BIGINT NOT NULL,
    content_id TEXT NOT NULL REFERENCES content (id),
    parent BIGINT,
    message TEXT NOT NULL,
    protected BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    trashed_at BIGINT,
    PRIMARY KEY (image_id, number)
);
CREATE INDEX version_content ON version (content_id);
CREATE INDEX version_trashed ON version (trashed_at);

CREATE TABLE channel (
    image_id TEXT NOT NULL REFERENCES image (id),
    name TEXT NOT NULL,
    number BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (image_id, name)
);

-- `answer` is the commit's answer for ever; the row outlives its image, hence no foreign key.
CREATE TABLE upload (
    id TEXT NOT NULL PRIMARY KEY,
    image_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    format TEXT NOT NULL,
    state TEXT NOT NULL,
    received BIGINT NOT NULL,
    parent BIGINT,
    size BIGINT,
    sector_size BIGINT NOT NULL,
    message TEXT NOT NULL,
    make_new BIGINT NOT NULL,
    source_format TEXT,
    digest TEXT,
    spaces TEXT NOT NULL,
    lease_until BIGINT NOT NULL,
    commit_until BIGINT,
    task_id TEXT,
    number BIGINT,
    answer TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX upload_state ON upload (state, lease_until);
CREATE INDEX upload_image ON upload (image_id);

-- One row per pack, segment and manifest, never one per chunk. `rev` is taken from the counter with every change of state.
CREATE TABLE blob (
    id TEXT NOT NULL PRIMARY KEY,
    space TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    state TEXT NOT NULL,
    len BIGINT NOT NULL,
    frames_len BIGINT NOT NULL,
    digest TEXT,
    upload TEXT,
    rev BIGINT NOT NULL,
    touched BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    doomed_at BIGINT
);
CREATE INDEX blob_name ON blob (kind, name, space);
CREATE INDEX blob_rev ON blob (kind, rev);
CREATE INDEX blob_state ON blob (state);

-- Long work. `fence` grows with each claim: who holds a smaller one has lost the task.
CREATE TABLE task (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    step TEXT NOT NULL,
    bytes_done BIGINT NOT NULL,
    bytes_total BIGINT,
    lease_until BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    cancelled BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    object TEXT NOT NULL,
    input TEXT NOT NULL,
    error TEXT,
    result TEXT,
    account_id TEXT,
    created_by TEXT NOT NULL,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT
);
CREATE INDEX task_state ON task (kind, state, created_at);
CREATE INDEX task_created ON task (created_at, id);

-- The answer to a creation, per token and key, written with the creation itself.
CREATE TABLE idempotency (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    answer TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (token, key)
);
CREATE INDEX idempotency_created ON idempotency (created_at);
