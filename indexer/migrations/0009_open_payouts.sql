-- What is asked for at every scrape: payouts under way, by state, however many are done with.

CREATE INDEX payout_open ON local.payout (state, created_at) WHERE state NOT IN ('posted', 'voided');
