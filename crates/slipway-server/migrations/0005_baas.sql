-- What the BAAS dialect knows of an image: `versioned` 0 is an image of one version whose content is replaced; the form it is sent and
-- given in; how it travels to machines.
ALTER TABLE image ADD COLUMN versioned BIGINT NOT NULL DEFAULT 1;
ALTER TABLE image ADD COLUMN file_type TEXT NOT NULL DEFAULT 'raw';
ALTER TABLE image ADD COLUMN transfer TEXT NOT NULL DEFAULT 'http';

-- CRC-32 (IEEE) of the raw bytes, 8 hexadecimal digits, where it was asked for.
ALTER TABLE content ADD COLUMN crc32 TEXT;

-- The content that an upload shall take the place of; null makes a new version.
ALTER TABLE upload ADD COLUMN replaces TEXT;

-- Contents that a newer one took the place of, until their time in the trash is over.
CREATE TABLE replaced (
    content_id TEXT NOT NULL PRIMARY KEY REFERENCES content (id),
    image_id TEXT NOT NULL REFERENCES image (id),
    number BIGINT NOT NULL,
    replaced_at BIGINT NOT NULL
);
CREATE INDEX replaced_image ON replaced (image_id);
CREATE INDEX replaced_at ON replaced (replaced_at);
