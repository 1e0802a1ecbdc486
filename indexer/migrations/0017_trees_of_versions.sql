-- The tree of a dataset version is kept as that of a batch is: a member's proof took as long as the version is large. Both stand in one
-- table, by the name that their file has in missing_file: batch/<provider>/<number> or members/<ip id>/<version>.

ALTER TABLE mirror.batch_tree RENAME TO tree;
ALTER TABLE mirror.tree ADD COLUMN what TEXT;
UPDATE mirror.tree SET what = 'batch/0x' || encode(provider, 'hex') || '/' || number;
ALTER TABLE mirror.tree DROP COLUMN provider, DROP COLUMN number;
ALTER TABLE mirror.tree ADD PRIMARY KEY (what);

-- Trees that are still to be made, one after another.
ALTER TABLE mirror.tree_wanted ADD COLUMN what TEXT;
UPDATE mirror.tree_wanted SET what = 'batch/0x' || encode(provider, 'hex') || '/' || number;
ALTER TABLE mirror.tree_wanted DROP COLUMN provider, DROP COLUMN number;
ALTER TABLE mirror.tree_wanted ADD PRIMARY KEY (what);
INSERT INTO mirror.tree_wanted SELECT 'members/' || ip_id || '/' || version FROM dataset_version WHERE state = 'valid';
