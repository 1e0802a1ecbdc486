//! Points to cash: reserve, pay over the rail, redeem on chain, post at finality.
