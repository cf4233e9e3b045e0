-- name: add_file
INSERT INTO files (id, tenant, bytes, created_s, expires_s, filename, purpose)
VALUES (:id, :tenant, :bytes, :created_s, :expires_s, :filename, :purpose);

-- name: file
SELECT id, tenant, bytes, created_s, expires_s, filename, purpose
FROM files WHERE id = :id AND tenant = :tenant;

-- name: files
SELECT id, tenant, bytes, created_s, expires_s, filename, purpose
FROM files
WHERE tenant = :tenant AND (:purpose = '' OR purpose = :purpose)
ORDER BY created_s DESC, id DESC;

-- name: file_bytes
SELECT coalesce(sum(bytes), 0) FROM files WHERE tenant = :tenant;

-- name: drop_file
DELETE FROM files WHERE id = :id AND tenant = :tenant;

-- name: expired_files
SELECT id, tenant, bytes, created_s, expires_s, filename, purpose
FROM files WHERE expires_s < :now_s;
