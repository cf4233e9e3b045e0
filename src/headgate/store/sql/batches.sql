-- name: add_batch
INSERT INTO batches (
    id, tenant, key_id, status, deadline_s, created_s, runner, runner_until_s, document
)
VALUES (:id, :tenant, :key_id, :status, :deadline_s, :created_s, '', 0, :document);

-- name: batch
SELECT document FROM batches WHERE id = :id AND (:tenant = '' OR tenant = :tenant);

-- name: batch_to_change
SELECT document FROM batches WHERE id = :id AND (:tenant = '' OR tenant = :tenant);

-- name: batch_to_change (postgres)
SELECT document FROM batches WHERE id = :id AND (:tenant = '' OR tenant = :tenant) FOR UPDATE;

-- name: change_batch
UPDATE batches SET status = :status, document = :document WHERE id = :id;

-- name: batches
SELECT document FROM batches
WHERE :tenant = '' OR tenant = :tenant
ORDER BY created_s DESC, id DESC;

-- name: claim_batches
UPDATE batches SET runner = :runner, runner_until_s = :until_s
WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
  AND (runner IN ('', :runner) OR runner_until_s < :now_s);

-- name: claimed_batches
SELECT document FROM batches
WHERE runner = :runner AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
ORDER BY deadline_s, id;
