// SPDX-License-Identifier: MIT OR Apache-2.0
// Gas of the peers' calls that ours are compared with, as whole transactions; written to contracts/snapshots/Peers.json.
pragma solidity ^0.8.28;

import {DevToken} from "../src/dev/DevToken.sol";
import {DeepTree} from "./DeepTree.sol";
import {
    AttestationRequest,
    AttestationRequestData,
    IEAS,
    IMerkleDistributor,
    IPaymentSplitter,
    ISchemaRegistry,
    MultiAttestationRequest,
    Peers
} from "./Peers.sol";

/// The token, the amounts and the payees' balances before a call are those that Gas.t.sol measures ours with.
contract PeersTest is Peers {
    using DeepTree for bytes32[];

    uint256 private constant AMOUNT = 500e6;
    uint256 private constant DEPTH = 20;
    /// The first index of a bitmap word, far inside of 2^20 leaves.
    uint256 private constant INDEX = 0x8a300;

    DevToken private _token;
    address private _newcomer = account("newcomer");
    address private _holder = account("holder");

    function setUp() external {
        vm.warp(1_800_000_000);
        _token = new DevToken();
        _token.mint(_holder, AMOUNT);
    }

    function snapshot(string memory name) private {
        vm.snapshotGasLastCall("Peers", name);
    }

    /* EAS */

    function test_AttestationsOfEAS() external {
        (IEAS eas, ISchemaRegistry schemas) = deployEAS();
        // A schema that fits one storage slot, with no resolver: the cheapest there is.
        bytes32 schema = schemas.register("bytes32 leaf", address(0), false);

        bytes32 uid = eas.attest(AttestationRequest(schema, attestation(0, 32, _holder)));
        snapshot("EAS attest: 32 bytes");
        assertTrue(eas.isAttestationValid(uid));
        eas.attest(AttestationRequest(schema, attestation(1, 160, _holder)));
        snapshot("EAS attest: 160 bytes");
        multiAttest(eas, schema, 10, 32, _holder);
        snapshot("EAS multiAttest: 10 of 32 bytes");
        multiAttest(eas, schema, 100, 32, _holder);
        snapshot("EAS multiAttest: 100 of 32 bytes");
        multiAttest(eas, schema, 100, 32, address(0));
        snapshot("EAS multiAttest: 100 of 32 bytes, no recipient");
        multiAttest(eas, schema, 100, 160, _holder);
        snapshot("EAS multiAttest: 100 of 160 bytes");
    }

    function test_TimestampsOfEAS() external {
        (IEAS eas,) = deployEAS();
        eas.timestamp(keccak256("root"));
        snapshot("EAS timestamp");
        eas.multiTimestamp(roots(10));
        snapshot("EAS multiTimestamp: 10 roots");
        bytes32[] memory hundred = roots(100);
        eas.multiTimestamp(hundred);
        snapshot("EAS multiTimestamp: 100 roots");
        assertEq(eas.getTimestamp(hundred[99]), block.timestamp);
    }

    function multiAttest(IEAS eas, bytes32 schema, uint256 count, uint256 size, address recipient) private {
        MultiAttestationRequest[] memory requests = new MultiAttestationRequest[](1);
        requests[0].schema = schema;
        requests[0].data = new AttestationRequestData[](count);
        for (uint256 i = 0; i < count; ++i) {
            requests[0].data[i] = attestation(i, size, recipient);
        }
        bytes32[] memory uids = eas.multiAttest(requests);
        assertEq(uids.length, count);
    }

    /// @dev An attestation of `size` random bytes.
    function attestation(uint256 i, uint256 size, address recipient)
        private
        pure
        returns (AttestationRequestData memory request)
    {
        request.recipient = recipient;
        for (uint256 j = 0; j < size; j += 32) {
            request.data = bytes.concat(request.data, keccak256(abi.encode("data", i, size, j)));
        }
    }

    function roots(uint256 count) private pure returns (bytes32[] memory list) {
        list = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            list[i] = keccak256(abi.encode("root", count, i));
        }
    }

    /* UNISWAP */

    function test_ClaimsOfUniswap() external {
        // Four neighbours: one bitmap word.
        address[4] memory payees = [_newcomer, account("another newcomer"), _holder, _newcomer];
        bytes32[] memory leaves = new bytes32[](4);
        for (uint256 i = 0; i < 4; ++i) {
            leaves[i] = keccak256(abi.encodePacked(INDEX + i, payees[i], AMOUNT));
        }
        IMerkleDistributor distributor = deployDistributor(address(_token), leaves.rootOf(DEPTH));
        _token.mint(address(distributor), 100 * AMOUNT);

        claim(distributor, leaves, payees, 0);
        snapshot("Uniswap claim: depth 20, first of a word, new holder");
        claim(distributor, leaves, payees, 1);
        snapshot("Uniswap claim: depth 20, later, new holder");
        claim(distributor, leaves, payees, 2);
        snapshot("Uniswap claim: depth 20, later, holder");
        assertEq(_token.balanceOf(_newcomer), AMOUNT);
        assertEq(_token.balanceOf(_holder), 2 * AMOUNT);

        // A proof one sibling short proves nothing: all twenty are looked at.
        bytes32[] memory short = leaves.proofOf(3, DEPTH - 1);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "MerkleDistributor: Invalid proof."));
        distributor.claim(INDEX + 3, _newcomer, AMOUNT, short);
    }

    /// The same claim by a payee who holds the token, where nobody of its word has claimed yet.
    function test_FirstClaimOfUniswapByAHolder() external {
        address[4] memory payees = [_holder, _holder, _holder, _holder];
        bytes32[] memory leaves = new bytes32[](4);
        for (uint256 i = 0; i < 4; ++i) {
            leaves[i] = keccak256(abi.encodePacked(INDEX + i, payees[i], AMOUNT));
        }
        IMerkleDistributor distributor = deployDistributor(address(_token), leaves.rootOf(DEPTH));
        _token.mint(address(distributor), 100 * AMOUNT);
        claim(distributor, leaves, payees, 0);
        snapshot("Uniswap claim: depth 20, first of a word, holder");
    }

    function claim(IMerkleDistributor distributor, bytes32[] memory leaves, address[4] memory payees, uint256 i)
        private
    {
        distributor.claim(INDEX + i, payees[i], AMOUNT, leaves.proofOf(i, DEPTH));
    }

    /* OPENZEPPELIN 4 */

    function test_ReleasesOfPaymentSplitter() external {
        address[] memory payees = new address[](10);
        uint256[] memory shares = new uint256[](10);
        for (uint256 i = 0; i < 10; ++i) {
            (payees[i], shares[i]) = (i == 0 ? _holder : payeeOf(i), 1);
        }
        IPaymentSplitter splitter = deploySplitter(payees, shares);
        _token.mint(address(splitter), 10 * AMOUNT);

        // The first release of all pays for a slot that only the first one fills.
        splitter.release(address(_token), payeeOf(1));
        splitter.release(address(_token), payeeOf(2));
        snapshot("PaymentSplitter release: first, new holder");
        assertEq(_token.balanceOf(payeeOf(2)), AMOUNT);
        splitter.release(address(_token), _holder);
        snapshot("PaymentSplitter release: first, holder");
        _token.mint(address(splitter), 10 * AMOUNT);
        splitter.release(address(_token), payeeOf(2));
        snapshot("PaymentSplitter release: later");
        assertEq(_token.balanceOf(payeeOf(2)), 2 * AMOUNT);
    }

    function payeeOf(uint256 i) private pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("payee", i)))));
    }

    /* THE FLOOR */

    function test_PlainTransfers() external {
        _token.mint(address(this), 3 * AMOUNT);
        _token.transfer(_newcomer, AMOUNT);
        snapshot("transfer: new holder");
        _token.transfer(_holder, AMOUNT);
        snapshot("transfer: holder");
    }
}
