// SPDX-License-Identifier: MIT OR Apache-2.0
// Wrong statements, which contracts/tools/halmos.py expects to be refuted: each by another solver of smt.py.
pragma solidity ^0.8.28;

import {ProvenanceEvent} from "../../interfaces/IProvenanceLog.sol";
import {Proof} from "./Proof.sol";

contract WrongProofs is Proof {
    function check_Wrong_DivisionLosesNothing(uint128 share, uint96 weight) external pure {
        vm.assume(weight > 0);
        unchecked {
            assert((uint256(share) << 128) / weight * weight == uint256(share) << 128);
        }
    }

    function check_Wrong_OneClaimEmptiesItsBatch(ProvenanceEvent memory e, uint128 total) external {
        vm.assume(e.payee == PAYEE);
        anchorFunded(0, log.leafOf(e), total);
        vm.warp(NOW + WINDOW);
        log.claim(PROVIDER, 0, e, noProof());
        assert(log.unclaimedOf(PROVIDER, 0) == 0);
    }
}
