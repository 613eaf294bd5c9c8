-- Rules of retention as JSON: an image's own, or its owner's for images without; null takes the next default.
ALTER TABLE image ADD COLUMN retention TEXT;
ALTER TABLE account ADD COLUMN retention TEXT;
-- When the rules were last applied or changed; null means never.
ALTER TABLE image ADD COLUMN retained_at BIGINT;

-- Limits of this account that are not the server's, as JSON.
ALTER TABLE account ADD COLUMN quota TEXT;

-- How much an account keeps is summed up over its spaces whenever it begins or ends an upload.
CREATE INDEX blob_space ON blob (space, kind, state);
CREATE INDEX blob_upload ON blob (upload);
