-- Which folder files are handed over to the bank through: in another one, a file that is not there says nothing.

CREATE TABLE local.payout_folder (
    one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    -- as the folder's own file `folder-id` has it
    id  UUID NOT NULL
);
