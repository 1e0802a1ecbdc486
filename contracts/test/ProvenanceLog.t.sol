// SPDX-License-Identifier: MIT OR Apache-2.0
// ProvenanceLog: who may register, what may be anchored, what is proven by a root.
pragma solidity ^0.8.28;

import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {IProvenanceLog, Batch, Provider, ProvenanceEvent, TaskDebit} from "../interfaces/IProvenanceLog.sol";
import {Fixture} from "./Fixture.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

contract RegisterProviderTest is Fixture {
    function register(string memory name) private {
        vm.prank(stranger);
        log.registerProvider(name, attestor, address(treasury), address(token));
    }

    function expectNameInvalid(string memory name) private {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.NameInvalid.selector, name));
        register(name);
    }

    function test_RevertWhen_NameIsTooShort() external {
        expectNameInvalid("a");
    }

    function test_RevertWhen_NameIsTooLong() external {
        expectNameInvalid("abcdefghijklmnopqrstuvwxyz-012345");
    }

    function testFuzz_RevertWhen_NameHasAnotherCharacter(bytes1 c) external {
        vm.assume(!((c >= "a" && c <= "z") || (c >= "0" && c <= "9") || c == "-"));
        expectNameInvalid(string(abi.encodePacked("numo", c)));
    }

    function test_RevertWhen_AnAddressIsZero() external {
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.AddressZero.selector));
            vm.prank(stranger);
            log.registerProvider(
                "other",
                i == 0 ? address(0) : attestor,
                i == 1 ? address(0) : address(treasury),
                i == 2 ? address(0) : address(token)
            );
        }
    }

    function test_RevertWhen_ProviderExists() external {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.ProviderExists.selector, provider));
        vm.prank(provider);
        log.registerProvider("other", attestor, address(treasury), address(token));
    }

    function test_RevertWhen_NameIsTaken() external {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.NameTaken.selector, "numo"));
        register("numo");
    }

    function test_WhenNameIsFree() external {
        vm.expectEmit(address(log));
        emit IProvenanceLog.ProviderRegistered(stranger, "az-09", attestor, address(treasury), address(token));
        register("az-09");
        assertEq(log.providerNamed("az-09"), stranger);
        Provider memory registered = log.providerOf(stranger);
        assertEq(registered.attestor, attestor);
        assertEq(registered.nextBatch, 0);
        assertEq(registered.pointsTreasury, address(treasury));
        assertEq(registered.token, address(token));
    }
}

contract SetAttestorTest is Fixture {
    function test_RevertWhen_AttestorIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.AddressZero.selector));
        vm.prank(provider);
        log.setAttestor(address(0));
    }

    function test_RevertWhen_CallerIsNoProvider() external {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.ProviderUnknown.selector, stranger));
        vm.prank(stranger);
        log.setAttestor(attestor);
    }

    function test_WhenRotated_KeepsTheSequence() external {
        anchor(aBatch(0));
        vm.expectEmit(address(log));
        emit IProvenanceLog.AttestorChanged(provider, stranger);
        vm.prank(provider);
        log.setAttestor(stranger);
        assertEq(log.providerOf(provider).attestor, stranger);
        assertEq(log.providerOf(provider).nextBatch, 1);
    }
}

contract AnchorTest is Fixture {
    function expectAttestationInvalid(Batch memory batch, bytes memory signature) private {
        address expected = log.providerOf(provider).attestor;
        vm.expectRevert(
            abi.encodeWithSelector(IProvenanceLog.AttestationInvalid.selector, expected, log.digestOf(batch))
        );
        log.anchor(batch, signature);
    }

    function test_RevertWhen_ProviderIsUnknown() external {
        Batch memory batch = aBatch(0);
        batch.provider = stranger;
        expectAnchorRevert(batch, abi.encodeWithSelector(IProvenanceLog.ProviderUnknown.selector, stranger));
    }

    function test_RevertWhen_NumberIsAhead() external {
        expectAnchorRevert(
            aBatch(1), abi.encodeWithSelector(IProvenanceLog.BatchNumberUnexpected.selector, provider, 0, 1)
        );
    }

    function test_RevertWhen_BatchIsReplayed() external {
        anchor(aBatch(0));
        expectAnchorRevert(
            aBatch(0), abi.encodeWithSelector(IProvenanceLog.BatchNumberUnexpected.selector, provider, 1, 0)
        );
    }

    function test_RevertWhen_BatchIsEmpty() external {
        Batch memory batch = aBatch(0);
        batch.eventCount = 0;
        expectAnchorRevert(batch, abi.encodeWithSelector(IProvenanceLog.BatchEmpty.selector));
    }

    function test_RevertWhen_RootIsZero() external {
        Batch memory batch = aBatch(0);
        batch.root = 0;
        expectAnchorRevert(batch, abi.encodeWithSelector(IProvenanceLog.RootZero.selector));
    }

    function test_RevertWhen_ManifestCidIsEmptyOrTooLong() external {
        Batch memory batch = aBatch(0);
        batch.manifestCid = "";
        expectAnchorRevert(batch, abi.encodeWithSelector(IProvenanceLog.ManifestCidInvalid.selector, 0));
        batch.manifestCid = new bytes(65);
        expectAnchorRevert(batch, abi.encodeWithSelector(IProvenanceLog.ManifestCidInvalid.selector, 65));
    }

    function test_RevertWhen_SomebodyElseSigned() external {
        Batch memory batch = aBatch(0);
        expectAttestationInvalid(batch, sign(keyOf("stranger"), log.digestOf(batch)));
    }

    function test_RevertWhen_SignatureIsGarbage() external {
        expectAttestationInvalid(aBatch(0), "");
        expectAttestationInvalid(aBatch(0), new bytes(65));
    }

    function test_RevertWhen_AttestorWasRotatedAfterSigning() external {
        Batch memory batch = aBatch(0);
        bytes memory signature = attest(batch);
        vm.prank(provider);
        log.setAttestor(stranger);
        expectAttestationInvalid(batch, signature);
    }

    function test_RevertWhen_SignedForAnotherChain() external {
        Batch memory batch = aBatch(0);
        bytes memory signature = attest(batch);
        vm.chainId(8453);
        expectAttestationInvalid(batch, signature);
    }

    function testFuzz_RevertWhen_AFieldWasChangedAfterSigning(uint256 field) external {
        uint64 task = aTask(3 * PRICE);
        Batch memory batch = aPaidBatch(0, task, PRICE, PRICE);
        bytes memory signature = attest(batch);
        field = bound(field, 0, 6);
        if (field == 0) batch.root = keccak256("other");
        if (field == 1) batch.eventCount += 1;
        if (field == 2) (batch.pointsTotal, batch.walletTotal) = (2 * PRICE, 0);
        if (field == 3) (batch.pointsTotal, batch.debits[0].amount) = (2 * PRICE, 3 * PRICE);
        if (field == 4) batch.debits[0].taskId += 1;
        if (field == 5) batch.debits = new TaskDebit[](0);
        if (field == 6) batch.manifestCid = hex"01";
        expectAttestationInvalid(batch, signature);
    }

    function test_WhenAttested_StoresTheRootAndSettles() external {
        uint64 task = aTask(10 * PRICE);
        Batch memory batch = aPaidBatch(0, task, 2 * PRICE, 3 * PRICE);
        bytes memory signature = attest(batch);
        vm.expectEmit(address(log));
        emit IProvenanceLog.BatchAnchored(provider, 0, batch.root, 1, 2 * PRICE, 3 * PRICE, batch.debits, CID, attestor);
        vm.prank(stranger);
        log.anchor(batch, signature);
        assertEq(log.rootOf(provider, 0), batch.root);
        assertEq(log.providerOf(provider).nextBatch, 1);
        assertEq(token.balanceOf(address(treasury)), 2 * PRICE);
        assertEq(log.unclaimedOf(provider, 0), 3 * PRICE);
    }

    function test_WhenThereAreNoRewards() external {
        anchor(aBatch(0));
        anchor(aBatch(1));
        assertEq(log.providerOf(provider).nextBatch, 2);
    }

    function test_WhenAttestorIsAQuorum() external {
        (uint256 a, uint256 b) = (keyOf("quorum-a"), keyOf("quorum-b"));
        if (vm.addr(a) > vm.addr(b)) (a, b) = (b, a);
        address[] memory members = new address[](2);
        (members[0], members[1]) = (vm.addr(a), vm.addr(b));
        AttestorQuorum quorum = new AttestorQuorum(members, 2);
        vm.prank(provider);
        log.setAttestor(address(quorum));

        Batch memory batch = aBatch(0);
        bytes32 digest = log.digestOf(batch);
        expectAttestationInvalid(batch, sign(a, digest));
        log.anchor(batch, bytes.concat(sign(a, digest), sign(b, digest)));
        assertEq(log.rootOf(provider, 0), batch.root);
    }

    function test_WhenTwoProvidersAnchor_SequencesAreApart() external {
        vm.prank(stranger);
        log.registerProvider("other", attestor, address(treasury), address(token));
        anchor(aBatch(0));
        Batch memory batch = aBatch(0);
        batch.provider = stranger;
        anchor(batch);
        assertEq(log.providerOf(provider).nextBatch, 1);
        assertEq(log.providerOf(stranger).nextBatch, 1);
    }

    function test_DigestIsEip712() external view {
        Batch memory batch = aPaidBatch(7, 3, 1, 2);
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tidemark ProvenanceLog"),
                keccak256("1"),
                block.chainid,
                address(log)
            )
        );
        bytes32 debit = keccak256(abi.encode(keccak256("TaskDebit(uint64 taskId,uint128 amount)"), 3, 3));
        bytes32 hash = keccak256(
            abi.encode(
                keccak256(
                    "Batch(address provider,uint64 number,bytes32 root,uint32 eventCount,uint128 pointsTotal,uint128 walletTotal,TaskDebit[] debits,bytes manifestCid)TaskDebit(uint64 taskId,uint128 amount)"
                ),
                provider,
                7,
                batch.root,
                1,
                1,
                2,
                keccak256(abi.encode(debit)),
                keccak256(CID)
            )
        );
        assertEq(log.digestOf(batch), keccak256(abi.encodePacked(hex"1901", domain, hash)));
    }
}

contract ContainsTest is Fixture {
    using StandardMerkleTree for bytes32[];

    ProvenanceEvent[] private _events;
    bytes32[] private _tree;

    function setUp() public override {
        super.setUp();
        for (uint32 i = 0; i < 5; ++i) {
            _events.push(anEvent(i, payee, 0));
        }
        _tree = treeOf(_events);
        Batch memory batch = aBatch(0);
        batch.root = _tree[0];
        batch.eventCount = 5;
        anchor(batch);
    }

    function proof(uint256 i) private view returns (bytes32[] memory) {
        return _tree.proofOf(log.leafOf(_events[i]));
    }

    function test_WhenTheEventIsInTheBatch() external view {
        for (uint256 i = 0; i < 5; ++i) {
            assertTrue(log.contains(provider, 0, _events[i], proof(i)));
        }
    }

    function test_WhenTheProofIsAnothers() external view {
        assertFalse(log.contains(provider, 0, _events[0], proof(1)));
    }

    function test_WhenTheBatchIsNotAnchored() external view {
        assertFalse(log.contains(provider, 1, _events[0], proof(0)));
        assertFalse(log.contains(stranger, 0, _events[0], proof(0)));
    }

    function test_WhenAFieldDiffers() external view {
        ProvenanceEvent memory e = _events[0];
        e.reward += 1;
        assertFalse(log.contains(provider, 0, e, proof(0)));
    }
}
