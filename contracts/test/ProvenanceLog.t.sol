// SPDX-License-Identifier: MIT OR Apache-2.0
// ProvenanceLog: who may register, what may be anchored, who may pause what, what is proven by a root.
pragma solidity ^0.8.28;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {MerkleProofLib} from "solady/src/utils/MerkleProofLib.sol";
import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {Disputes} from "../src/Disputes.sol";
import {DevToken} from "../src/dev/DevToken.sol";
import {Leaves} from "../src/Leaves.sol";
import {PointsTreasury} from "../src/PointsTreasury.sol";
import {ProvenanceLog} from "../src/ProvenanceLog.sol";
import {Member} from "../interfaces/IIPRegistry.sol";
import {PointsDebit} from "../interfaces/IPointsTreasury.sol";
import {IProvenanceLog, Batch, Provider, ProvenanceEvent, TaskDebit} from "../interfaces/IProvenanceLog.sol";
import {Claim, IRewardPool} from "../interfaces/IRewardPool.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

contract RegisterProviderTest is Fixture {
    uint32 private constant WINDOW_MAX = 30 days;

    PointsTreasury private _treasury;

    function setUp() public override {
        super.setUp();
        _treasury = Deploy.pointsTreasury(address(log), stranger, address(token), operator);
    }

    function register(string memory name) private {
        register(name, attestor, address(_treasury), address(token), 0);
    }

    function register(
        string memory name,
        address itsAttestor,
        address itsTreasury,
        address itsToken,
        uint32 challengeWindow
    ) private {
        vm.prank(stranger);
        log.registerProvider(name, itsAttestor, itsTreasury, itsToken, challengeWindow);
    }

    function expectNameInvalid(string memory name) private {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.NameInvalid.selector, name));
        register(name);
    }

    function expectTreasuryMismatch(PointsTreasury itsTreasury) private {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.TreasuryMismatch.selector, address(itsTreasury)));
        register("other", attestor, address(itsTreasury), address(token), 0);
    }

    function test_RevertWhen_NameIsTooShort() external {
        expectNameInvalid("");
        expectNameInvalid("a");
    }

    function test_RevertWhen_NameIsTooLong() external {
        expectNameInvalid("abcdefghijklmnopqrstuvwxyz-012345");
    }

    function testFuzz_RevertWhen_NameHasAnotherCharacter(bytes1 c, uint256 position) external {
        vm.assume(!((c >= "a" && c <= "z") || (c >= "0" && c <= "9") || c == "-"));
        bytes memory name = "numo-2";
        name[position % name.length] = c;
        expectNameInvalid(string(name));
    }

    function test_RevertWhen_NameHasTheNeighbourOfAnAllowedCharacter() external {
        bytes memory neighbours = "`{/:,.";
        for (uint256 i = 0; i < neighbours.length; ++i) {
            expectNameInvalid(string(abi.encodePacked("numo", neighbours[i])));
        }
    }

    function test_RevertWhen_AnAddressIsZero() external {
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.AddressZero.selector));
            register(
                "other",
                i == 0 ? address(0) : attestor,
                i == 1 ? address(0) : address(_treasury),
                i == 2 ? address(0) : address(token),
                0
            );
        }
    }

    function testFuzz_RevertWhen_ChallengeWindowIsTooLong(uint32 challengeWindow) external {
        challengeWindow = uint32(bound(challengeWindow, WINDOW_MAX + 1, type(uint32).max));
        vm.expectRevert(
            abi.encodeWithSelector(IProvenanceLog.ChallengeWindowTooLong.selector, challengeWindow, WINDOW_MAX)
        );
        register("other", attestor, address(_treasury), address(token), challengeWindow);
    }

    function test_RevertWhen_ProviderExists() external {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.ProviderExists.selector, provider));
        vm.prank(provider);
        log.registerProvider("other", attestor, address(treasury), address(token), 0);
    }

    function test_RevertWhen_NameIsTaken() external {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.NameTaken.selector, "numo"));
        register("numo");
    }

    function test_RevertWhen_TheTreasuryIsOfAnotherLog() external {
        ProvenanceLog other = Deploy.provenanceLog(authority);
        expectTreasuryMismatch(Deploy.pointsTreasury(address(other), stranger, address(token), operator));
    }

    function test_RevertWhen_TheTreasuryIsAnotherProviders() external {
        expectTreasuryMismatch(treasury);
    }

    function test_RevertWhen_TheTreasuryIsOfAnotherToken() external {
        expectTreasuryMismatch(Deploy.pointsTreasury(address(log), stranger, address(Deploy.devToken()), operator));
    }

    function test_RevertWhen_TheTreasuryIsNoContract() external {
        vm.expectRevert("");
        register("other", attestor, payee, address(token), 0);
    }

    function testFuzz_WhenNameIsFree(uint32 challengeWindow) external {
        challengeWindow = uint32(bound(challengeWindow, 0, WINDOW_MAX));
        vm.expectEmit(address(log));
        emit IProvenanceLog.ProviderRegistered(stranger, "az-09", attestor, address(_treasury), address(token));
        vm.expectEmit(address(log));
        emit IProvenanceLog.ChallengeWindowChanged(stranger, challengeWindow);
        register("az-09", attestor, address(_treasury), address(token), challengeWindow);
        assertEq(log.providerNamed("az-09"), stranger);
        Provider memory registered = log.providerOf(stranger);
        assertEq(registered.attestor, attestor);
        assertEq(registered.nextBatch, 0);
        assertEq(registered.challengeWindow, challengeWindow);
        assertEq(registered.pointsTreasury, address(_treasury));
        assertEq(registered.pointsAccrued, 0);
        assertEq(registered.token, address(token));
        (address itsToken, address itsTreasury) = log.settlementOf(stranger);
        assertEq(itsToken, address(token));
        assertEq(itsTreasury, address(_treasury));
    }

    function test_WhenNameIsAsShortOrAsLongAsAllowed() external {
        register("--");
        assertEq(log.providerNamed("--"), stranger);
        registerProvider(payee, "abcdefghijklmnopqrstuvwxyz-01234", attestor, address(token), WINDOW_MAX);
        assertEq(log.providerNamed("abcdefghijklmnopqrstuvwxyz-01234"), payee);
    }

    function test_WhenThereIsNoProvider_ViewsAnswerZero() external view {
        assertEq(log.providerNamed("nobody"), address(0));
        assertEq(log.providerOf(stranger).attestor, address(0));
        (address itsToken, address itsTreasury) = log.settlementOf(stranger);
        assertEq(itsToken, address(0));
        assertEq(itsTreasury, address(0));
    }
}

contract SetAttestorTest is Fixture {
    function test_RevertWhen_AttestorIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.AddressZero.selector));
        vm.prank(provider);
        log.setAttestor(address(0));
    }

    function test_RevertWhen_CallerIsNoProvider() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProviderUnknown.selector, stranger));
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

contract SetChallengeWindowTest is Fixture {
    uint32 private constant WINDOW_MAX = 30 days;

    function testFuzz_RevertWhen_TooLong(uint32 challengeWindow) external {
        challengeWindow = uint32(bound(challengeWindow, WINDOW_MAX + 1, type(uint32).max));
        vm.expectRevert(
            abi.encodeWithSelector(IProvenanceLog.ChallengeWindowTooLong.selector, challengeWindow, WINDOW_MAX)
        );
        vm.prank(provider);
        log.setChallengeWindow(challengeWindow);
    }

    function test_RevertWhen_CallerIsNoProvider() external {
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProviderUnknown.selector, stranger));
        vm.prank(stranger);
        log.setChallengeWindow(1 days);
    }

    function testFuzz_WhenSet_AnchoredBatchesKeepTheirs(uint32 first, uint32 second) external {
        (first, second) = (uint32(bound(first, 0, WINDOW_MAX)), uint32(bound(second, 0, WINDOW_MAX)));
        vm.prank(provider);
        log.setChallengeWindow(first);
        anchor(aBatch(0));
        vm.expectEmit(address(log));
        emit IProvenanceLog.ChallengeWindowChanged(provider, second);
        vm.prank(provider);
        log.setChallengeWindow(second);
        vm.warp(NOW + 1);
        anchor(aBatch(1));
        assertEq(log.providerOf(provider).challengeWindow, second);
        assertEq(log.challengeUntilOf(provider, 0), NOW + first);
        assertEq(log.challengeUntilOf(provider, 1), NOW + 1 + second);
        assertEq(log.challengeUntilOf(provider, 2), 0);
    }
}

/// Answers ERC-1271 with whatever it is told.
contract Answering is IERC1271 {
    bytes4 private immutable ANSWER;
    bool private immutable FAILS;

    constructor(bytes4 answer, bool fails) {
        (ANSWER, FAILS) = (answer, fails);
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        require(!FAILS);
        return ANSWER;
    }
}

contract AnchorTest is Fixture {
    uint256 private constant CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function expectAttestationInvalid(Batch memory batch, bytes memory signature) private {
        expectAttestationInvalid(log, batch, signature);
    }

    function expectAttestationInvalid(ProvenanceLog log_, Batch memory batch, bytes memory signature) private {
        address expected = log_.providerOf(provider).attestor;
        vm.expectRevert(
            abi.encodeWithSelector(IProvenanceLog.AttestationInvalid.selector, expected, log_.digestOf(batch))
        );
        log_.anchor(batch, signature);
    }

    function setAttestor(address to) private {
        vm.prank(provider);
        log.setAttestor(to);
    }

    function test_RevertWhen_ProviderIsUnknown() external {
        Batch memory batch = aBatch(0);
        batch.provider = stranger;
        expectAnchorRevert(batch, abi.encodeWithSelector(IRewardPool.ProviderUnknown.selector, stranger));
    }

    /// P4
    function testFuzz_RevertWhen_NumberIsNotTheNext(uint64 number) external {
        anchor(aBatch(0));
        anchor(aBatch(1));
        vm.assume(number != 2);
        expectAnchorRevert(
            aBatch(number), abi.encodeWithSelector(IProvenanceLog.BatchNumberUnexpected.selector, provider, 2, number)
        );
    }

    /// P4, P16
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

    function test_RevertWhen_ManifestCidIsEmpty() external {
        Batch memory batch = aBatch(0);
        batch.manifestCid = "";
        expectAnchorRevert(batch, abi.encodeWithSelector(IProvenanceLog.ManifestCidInvalid.selector, 0));
    }

    function testFuzz_RevertWhen_ManifestCidIsTooLong(uint8 length) external {
        uint256 tooLong = bound(length, 65, 255);
        Batch memory batch = aBatch(0);
        batch.manifestCid = new bytes(tooLong);
        expectAnchorRevert(batch, abi.encodeWithSelector(IProvenanceLog.ManifestCidInvalid.selector, tooLong));
    }

    function testFuzz_WhenManifestCidFits(uint8 length) external {
        Batch memory batch = aBatch(0);
        batch.manifestCid = new bytes(bound(length, 1, 64));
        anchor(batch);
        assertEq(log.rootOf(provider, 0), batch.root);
    }

    function testFuzz_RevertWhen_SomebodyElseSigned(uint256 key) external {
        key = bound(key, 1, CURVE_ORDER - 1);
        vm.assume(key != attestorKey);
        Batch memory batch = aBatch(0);
        expectAttestationInvalid(batch, sign(key, log.digestOf(batch)));
    }

    function test_RevertWhen_TheProviderSigned() external {
        Batch memory batch = aBatch(0);
        expectAttestationInvalid(batch, sign(keyOf("provider"), log.digestOf(batch)));
    }

    function testFuzz_RevertWhen_SignatureIsGarbage(bytes calldata garbage) external {
        expectAttestationInvalid(aBatch(0), garbage);
        expectAttestationInvalid(aBatch(0), new bytes(65));
    }

    /// An unsigned attestation must not pass as that of the zero address either.
    function testFuzz_RevertWhen_SignatureHasAnotherLength(uint8 length) external {
        vm.assume(length != 65);
        Batch memory batch = aBatch(0);
        bytes memory genuine = attest(batch);
        bytes memory signature = new bytes(length);
        for (uint256 i = 0; i < length && i < genuine.length; ++i) {
            signature[i] = genuine[i];
        }
        expectAttestationInvalid(batch, signature);
    }

    /// P16: the twin of a signature, (r, n - s), is no second one.
    function test_RevertWhen_SIsHigh() external {
        Batch memory batch = aBatch(0);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(attestorKey, log.digestOf(batch));
        bytes32 high = bytes32(CURVE_ORDER - uint256(s));
        expectAttestationInvalid(batch, abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27)));
        expectAttestationInvalid(batch, abi.encodePacked(r, high, v));
    }

    /// P16
    function testFuzz_RevertWhen_VIsNot27Or28(uint8 v) external {
        vm.assume(v != 27 && v != 28);
        Batch memory batch = aBatch(0);
        (uint8 genuine, bytes32 r, bytes32 s) = vm.sign(attestorKey, log.digestOf(batch));
        expectAttestationInvalid(batch, abi.encodePacked(r, s, v));
        expectAttestationInvalid(batch, abi.encodePacked(r, s, genuine - 27));
    }

    /// P11
    function test_RevertWhen_AttestorWasRotatedAfterSigning() external {
        Batch memory batch = aBatch(0);
        bytes memory signature = attest(batch);
        setAttestor(stranger);
        expectAttestationInvalid(batch, signature);
        anchorAs(batch, keyOf("stranger"));
        expectAttestationInvalid(aBatch(1), attest(aBatch(1)));
    }

    /// P11
    function test_WhenAttestorIsRotatedBack_ItsKeySignsAgain() external {
        bytes memory signature = attest(aBatch(0));
        setAttestor(stranger);
        setAttestor(attestor);
        log.anchor(aBatch(0), signature);
        assertEq(log.providerOf(provider).nextBatch, 1);
    }

    function anchorAs(Batch memory batch, uint256 key) private {
        log.anchor(batch, sign(key, log.digestOf(batch)));
    }

    /// P16
    function testFuzz_RevertWhen_SignedForAnotherChain(uint64 chainId) external {
        vm.assume(chainId != block.chainid && chainId != 0);
        Batch memory batch = aBatch(0);
        bytes memory signature = attest(batch);
        vm.chainId(chainId);
        expectAttestationInvalid(batch, signature);
    }

    /// P16
    function test_RevertWhen_SignedForAnotherLog() external {
        ProvenanceLog other = Deploy.provenanceLog(authority);
        PointsTreasury itsTreasury = Deploy.pointsTreasury(address(other), provider, address(token), operator);
        vm.prank(provider);
        other.registerProvider("numo", attestor, address(itsTreasury), address(token), 0);
        Batch memory batch = aBatch(0);
        expectAttestationInvalid(other, batch, attest(batch));
        other.anchor(batch, sign(attestorKey, other.digestOf(batch)));
    }

    /// P16: two providers may have one attestor.
    function test_RevertWhen_SignedForAnotherProvider() external {
        registerProvider(stranger, "other", attestor, address(token), 0);
        Batch memory batch = aBatch(0);
        bytes memory signature = attest(batch);
        batch.provider = stranger;
        vm.expectRevert(
            abi.encodeWithSelector(IProvenanceLog.AttestationInvalid.selector, attestor, log.digestOf(batch))
        );
        log.anchor(batch, signature);
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

    /// A word with dirty upper bits is no other spelling of a signed number.
    function test_RevertWhen_AWordHasDirtyUpperBits() external {
        Batch memory batch = aBatch(0);
        bytes memory data = abi.encodeCall(log.anchor, (batch, attest(batch)));
        // The batch begins after the selector and two offsets: provider, number, root, eventCount, two totals.
        for (uint256 word = 0; word < 6; ++word) {
            if (word == 2) continue;
            bytes memory dirty = bytes.concat(data);
            dirty[4 + 64 + 32 * word] = 0x01;
            (bool ok,) = address(log).call(dirty);
            assertFalse(ok);
        }
        (bool clean,) = address(log).call(data);
        assertTrue(clean);
    }

    function test_RevertWhen_Paused() external {
        vm.prank(pauser);
        log.pause();
        expectAnchorRevert(aBatch(0), abi.encodeWithSelector(Pausable.EnforcedPause.selector));
    }

    function test_WhenAttested_StoresTheRootAndSettles() external {
        vm.prank(provider);
        log.setChallengeWindow(3 days);
        uint64 task = aTask(10 * PRICE);
        Batch memory batch = aPaidBatch(0, task, 2 * PRICE, 3 * PRICE);
        bytes memory signature = attest(batch);
        vm.expectEmit(address(log));
        emit IProvenanceLog.BatchAnchored(
            provider, 0, batch.root, 1, 2 * PRICE, 3 * PRICE, batch.debits, CID, attestor, uint64(NOW + 3 days)
        );
        vm.prank(stranger);
        log.anchor(batch, signature);
        assertEq(log.rootOf(provider, 0), batch.root);
        assertEq(log.challengeUntilOf(provider, 0), NOW + 3 days);
        assertEq(log.providerOf(provider).nextBatch, 1);
        assertEq(log.providerOf(provider).pointsAccrued, 2 * PRICE);
        assertEq(log.unclaimedOf(provider, 0), 3 * PRICE);
        assertEq(token.balanceOf(address(log)), 10 * PRICE);
    }

    /// P4
    function testFuzz_WhenManyAnchor_NumbersAreGaplessAndRootsStay(uint8 count, bytes32 seed) external {
        uint64 batches = uint64(bound(count, 1, 20));
        for (uint64 number = 0; number < batches; ++number) {
            assertEq(log.rootOf(provider, number), 0);
            Batch memory batch = aBatch(number);
            batch.root = keccak256(abi.encode(seed, number));
            anchor(batch);
        }
        assertEq(log.providerOf(provider).nextBatch, batches);
        for (uint64 number = 0; number < batches; ++number) {
            assertEq(log.rootOf(provider, number), keccak256(abi.encode(seed, number)));
        }
        assertEq(log.rootOf(provider, batches), 0);
    }

    function test_WhenAttestorIsAQuorum() external {
        (uint256 a, uint256 b) = (keyOf("quorum-a"), keyOf("quorum-b"));
        if (vm.addr(a) > vm.addr(b)) (a, b) = (b, a);
        address[] memory members = new address[](2);
        (members[0], members[1]) = (vm.addr(a), vm.addr(b));
        setAttestor(address(Deploy.attestorQuorum(members, 2)));

        Batch memory batch = aBatch(0);
        bytes32 digest = log.digestOf(batch);
        expectAttestationInvalid(batch, sign(a, digest));
        expectAttestationInvalid(batch, bytes.concat(sign(b, digest), sign(a, digest)));
        log.anchor(batch, bytes.concat(sign(a, digest), sign(b, digest)));
        assertEq(log.rootOf(provider, 0), batch.root);
    }

    /// Its signature looks like an account's, and must still be asked for by ERC-1271.
    function test_WhenAnErc1271AttestorTakes65Bytes() external {
        address[] memory members = new address[](1);
        members[0] = payee;
        setAttestor(address(Deploy.attestorQuorum(members, 1)));
        Batch memory batch = aBatch(0);
        expectAttestationInvalid(batch, attest(batch));
        anchorAs(batch, keyOf("payee"));
        assertEq(log.rootOf(provider, 0), batch.root);
    }

    function test_WhenAnErc1271AttestorTakesAnyBytes() external {
        setAttestor(address(new Answering(IERC1271.isValidSignature.selector, false)));
        log.anchor(aBatch(0), "");
        log.anchor(aBatch(1), new bytes(65));
        assertEq(log.providerOf(provider).nextBatch, 2);
    }

    function testFuzz_RevertWhen_AnErc1271AttestorAnswersOtherwise(bytes4 answer) external {
        vm.assume(answer != IERC1271.isValidSignature.selector);
        setAttestor(address(new Answering(answer, false)));
        expectAttestationInvalid(aBatch(0), attest(aBatch(0)));
    }

    function test_RevertWhen_AnErc1271AttestorReverts() external {
        setAttestor(address(new Answering(IERC1271.isValidSignature.selector, true)));
        expectAttestationInvalid(aBatch(0), attest(aBatch(0)));
    }

    function test_RevertWhen_TheAttestorHasNoErc1271() external {
        setAttestor(address(token));
        expectAttestationInvalid(aBatch(0), attest(aBatch(0)));
    }

    /// As under EIP-7702.
    function test_WhenTheAttestorsAccountRunsCode_ItsKeySignsAsWell() external {
        vm.etch(attestor, address(new Answering(0xffffffff, false)).code);
        anchor(aBatch(0));
        assertEq(log.providerOf(provider).nextBatch, 1);
    }

    function test_WhenTwoProvidersAnchor_SequencesAreApart() external {
        registerProvider(stranger, "other", attestor, address(token), 0);
        anchor(aBatch(0));
        Batch memory batch = aBatch(0);
        batch.provider = stranger;
        batch.root = keccak256("theirs");
        anchor(batch);
        assertEq(log.providerOf(provider).nextBatch, 1);
        assertEq(log.providerOf(stranger).nextBatch, 1);
        assertEq(log.rootOf(provider, 0), aBatch(0).root);
        assertEq(log.rootOf(stranger, 0), keccak256("theirs"));
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

contract PauseTest is Fixture {
    using StandardMerkleTree for bytes32[];

    function unauthorized(address caller) private pure returns (bytes memory) {
        return abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, caller);
    }

    function pause() private {
        vm.prank(pauser);
        log.pause();
    }

    /// P17
    function testFuzz_RevertWhen_CallerHasNotTheRole(address caller) external {
        vm.assume(caller != pauser && caller != address(authority));
        vm.expectRevert(unauthorized(caller));
        vm.prank(caller);
        log.pause();
        pause();
        vm.expectRevert(unauthorized(caller));
        vm.prank(caller);
        log.unpause();
        assertTrue(log.paused());
    }

    /// P17: other roles count as little as none.
    function test_RevertWhen_CallerIsAdminArbiterOrProvider() external {
        address[3] memory callers = [admin, arbiter, provider];
        for (uint256 i = 0; i < callers.length; ++i) {
            vm.expectRevert(unauthorized(callers[i]));
            vm.prank(callers[i]);
            log.pause();
        }
    }

    /// P17
    function test_RevertWhen_TheRoleWasRevoked() external {
        vm.prank(admin);
        authority.revokeRole(PAUSER, pauser);
        vm.expectRevert(unauthorized(pauser));
        pause();
    }

    /// P17
    function test_WhenTheRoleHasADelay_ThePauseWaitsForIt() external {
        vm.prank(admin);
        authority.grantRole(PAUSER, stranger, 2 days);
        bytes memory call = abi.encodeCall(log.pause, ());
        bytes32 id = authority.hashOperation(stranger, address(log), call);
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotScheduled.selector, id));
        vm.prank(stranger);
        log.pause();

        vm.prank(stranger);
        authority.schedule(address(log), call, 0);
        vm.warp(NOW + 2 days - 1);
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotReady.selector, id));
        vm.prank(stranger);
        log.pause();

        vm.warp(NOW + 2 days);
        vm.prank(stranger);
        log.pause();
        assertTrue(log.paused());
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotScheduled.selector, id));
        vm.prank(stranger);
        log.pause();
    }

    /// P17: the role counts for the sender of the multicall, not for whoever is named in it.
    function test_RevertWhen_AStrangerPausesThroughMulticall() external {
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(log.sweepPoints, (provider));
        calls[1] = abi.encodeCall(log.pause, ());
        vm.expectRevert(unauthorized(stranger));
        vm.prank(stranger);
        log.multicall(calls);
        bytes[] memory nested = new bytes[](1);
        nested[0] = abi.encodeCall(log.multicall, (calls));
        vm.expectRevert(unauthorized(stranger));
        vm.prank(stranger);
        log.multicall(nested);
        assertFalse(log.paused());
    }

    function test_WhenTheRolePausesThroughMulticall() external {
        bytes[] memory calls = new bytes[](3);
        calls[0] = calls[2] = abi.encodeCall(log.pause, ());
        calls[1] = abi.encodeCall(log.unpause, ());
        vm.prank(pauser);
        log.multicall(calls);
        assertTrue(log.paused());
    }

    function test_RevertWhen_PausedAlready() external {
        pause();
        vm.expectRevert(abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        pause();
    }

    function test_RevertWhen_UnpausedAlready() external {
        vm.expectRevert(abi.encodeWithSelector(Pausable.ExpectedPause.selector));
        vm.prank(pauser);
        log.unpause();
    }

    function test_WhenUnpaused_AnchoringGoesOn() external {
        anchor(aBatch(0));
        vm.expectEmit(address(log));
        emit Pausable.Paused(pauser);
        pause();
        vm.expectEmit(address(log));
        emit Pausable.Unpaused(pauser);
        vm.prank(pauser);
        log.unpause();
        anchor(aBatch(1));
        assertEq(log.providerOf(provider).nextBatch, 2);
    }

    /// P10
    function test_WhenPaused_MoneyAndKeysStillMove() external {
        uint64 task = aTask(10 * PRICE);
        ProvenanceEvent[] memory events = new ProvenanceEvent[](3);
        for (uint32 i = 0; i < 3; ++i) {
            events[i] = anEvent(i, payee, PRICE);
        }
        bytes32[] memory tree = treeOf(events);
        bytes32[][] memory proofs = new bytes32[][](3);
        for (uint32 i = 0; i < 3; ++i) {
            proofs[i] = tree.proofOf(log.leafOf(events[i]));
        }
        Batch memory batch = aPaidBatch(0, task, 2 * PRICE, 3 * PRICE);
        batch.root = tree[0];
        anchor(batch);
        pause();
        vm.prank(admin);
        authority.setTargetClosed(address(log), true);

        log.claim(provider, 0, events[0], proofs[0]);
        vm.prank(address(disputes));
        log.hold(provider, 0, 1, PRICE);
        Claim[] memory claims = new Claim[](1);
        claims[0] = Claim({provider: provider, number: 0, e: events[2], proof: proofs[2]});
        log.claimMany(claims);
        assertEq(token.balanceOf(payee), 2 * PRICE);
        assertEq(token.balanceOf(address(disputes)), PRICE);

        PointsDebit[] memory debits = new PointsDebit[](1);
        debits[0] = PointsDebit({payoutId: "one", account: "alice", amount: PRICE});
        vm.prank(operator);
        treasury.redeem(debits, stranger);
        assertEq(token.balanceOf(stranger), PRICE);
        assertEq(token.balanceOf(address(treasury)), PRICE);
        assertEq(log.sweepPoints(provider), 0);

        vm.prank(provider);
        log.setAttestor(stranger);
        vm.prank(provider);
        log.setChallengeWindow(1);
        registerProvider(stranger, "other", attestor, address(token), 0);
        fund(buyer, address(log), 2 * PRICE);
        vm.prank(buyer);
        uint64 second = log.createTask(provider, PRICE, uint64(NOW + 1), "terms", "ipfs://t", PRICE);
        vm.prank(buyer);
        log.fundTask(second, PRICE);
        vm.warp(NOW + 60 days);
        vm.prank(sponsor);
        log.refundTask(task);
        vm.prank(buyer);
        log.refundTask(second);
        assertEq(token.balanceOf(sponsor), 5 * PRICE);
        assertEq(token.balanceOf(buyer), 2 * PRICE);
        assertEq(token.balanceOf(address(log)), 0);
    }

    /// P9: all that the admin may call of the log in the authority's name leads nowhere.
    function test_RevertWhen_TheAdminReachesForRewards() external {
        uint64 task = aTask(PRICE);
        anchor(aPaidBatch(0, task, 0, PRICE));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.OnlyDisputes.selector, address(authority)));
        vm.prank(admin);
        authority.execute(address(log), abi.encodeCall(log.hold, (provider, 0, 0, PRICE)));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.ProviderUnknown.selector, address(authority)));
        vm.prank(admin);
        authority.execute(address(log), abi.encodeCall(log.setAttestor, (admin)));
        assertEq(log.unclaimedOf(provider, 0), PRICE);
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

    /// An inner node is no leaf: the leaves are hashed twice.
    function test_WhenTheProofIsTooShortOrTooLong() external view {
        bytes32[] memory whole = proof(0);
        bytes32[] memory part = new bytes32[](whole.length - 1);
        bytes32[] memory more = new bytes32[](whole.length + 1);
        for (uint256 i = 0; i < whole.length; ++i) {
            more[i] = whole[i];
            if (i < part.length) part[i] = whole[i];
        }
        assertFalse(log.contains(provider, 0, _events[0], part));
        assertFalse(log.contains(provider, 0, _events[0], more));
        assertFalse(log.contains(provider, 0, _events[0], new bytes32[](0)));
    }

    function testFuzz_WhenAFieldDiffers(uint256 field, uint256 change) external view {
        ProvenanceEvent memory e = _events[0];
        bytes memory words = abi.encode(e);
        // Bit 0 is within every field but dataId, which is left-aligned.
        uint256 word = bound(field, 0, 12);
        uint256 position = 32 * word + (word == 1 ? 0 : 31);
        words[position] ^= bytes1(uint8(bound(change, 1, 255)));
        if (word == 3 || words[position] == abi.encode(e)[position]) words[position] = 0x05;
        assertFalse(log.contains(provider, 0, abi.decode(words, (ProvenanceEvent)), proof(0)));
    }

    /// A word with dirty upper bits is no other spelling of an event.
    function testFuzz_WhenAWordHasDirtyBits(uint256 field, uint8 dirt) external view {
        bytes memory data = abi.encodeCall(log.contains, (provider, 0, _events[0], proof(0)));
        (bool ok, bytes memory answer) = address(log).staticcall(data);
        assertTrue(ok && abi.decode(answer, (bool)));
        uint256 word = [uint256(0), 1, 2, 3, 9, 10, 11, 12][field % 8];
        // The event begins after the selector, provider and number.
        uint256 position = 4 + 64 + 32 * word + (word == 1 ? 31 : 0);
        data[position] = bytes1(uint8(bound(dirt, 1, 255)));
        (ok, answer) = address(log).staticcall(data);
        assertFalse(ok && abi.decode(answer, (bool)));
    }
}

contract SupportsInterfaceTest is Fixture {
    function test_WhenItIsOneOfTheLogs() external view {
        assertTrue(log.supportsInterface(type(IProvenanceLog).interfaceId));
        assertTrue(log.supportsInterface(type(IRewardPool).interfaceId));
        assertTrue(log.supportsInterface(type(IERC165).interfaceId));
    }

    function testFuzz_WhenItIsAnother(bytes4 id) external view {
        vm.assume(id != type(IProvenanceLog).interfaceId && id != type(IRewardPool).interfaceId);
        vm.assume(id != type(IERC165).interfaceId);
        assertFalse(log.supportsInterface(id));
        assertFalse(log.supportsInterface(0xffffffff));
    }

    function test_DisputesAreTheLogsOwn() external view {
        assertEq(log.disputes(), address(disputes));
        assertEq(Disputes(log.disputes()).authority(), address(authority));
        assertEq(log.authority(), address(authority));
    }
}

/// Makes the two libraries callable.
contract Hashing {
    function ofEvent(ProvenanceEvent calldata e) external pure returns (bytes32) {
        return Leaves.ofEvent(e);
    }

    function ofMember(Member calldata member) external pure returns (bytes32) {
        return Leaves.ofMember(member);
    }

    /// @dev Leaves what was in memory as it was.
    function keepsMemory(ProvenanceEvent calldata e, Member calldata member, bytes memory kept)
        external
        pure
        returns (bytes32 before, bytes32 afterwards)
    {
        before = keccak256(kept);
        Leaves.ofEvent(e);
        Leaves.ofMember(member);
        bytes memory fresh = new bytes(kept.length);
        afterwards = keccak256(kept);
        require(keccak256(fresh) == keccak256(new bytes(kept.length)));
    }

    function verify(bytes32[] calldata proof, bytes32 root, bytes32 leaf)
        external
        pure
        returns (bool solady, bool openZeppelin)
    {
        return (MerkleProofLib.verifyCalldata(proof, root, leaf), MerkleProof.verifyCalldata(proof, root, leaf));
    }
}

contract LeavesTest is Fixture {
    using StandardMerkleTree for bytes32[];

    Hashing private _hashing;

    function setUp() public override {
        super.setUp();
        _hashing = new Hashing();
    }

    function testFuzz_OfEventIsTheStandardLeaf(ProvenanceEvent calldata e) external view {
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(e))));
        assertEq(_hashing.ofEvent(e), leaf);
        assertEq(log.leafOf(e), leaf);
    }

    function testFuzz_OfMemberIsTheStandardLeaf(Member calldata member) external view {
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(member))));
        assertEq(_hashing.ofMember(member), leaf);
        assertEq(ips.memberLeafOf(member), leaf);
    }

    function testFuzz_MemoryStays(ProvenanceEvent calldata e, Member calldata member, bytes calldata kept)
        external
        view
    {
        (bytes32 before, bytes32 afterwards) = _hashing.keepsMemory(e, member, kept);
        assertEq(before, keccak256(kept));
        assertEq(afterwards, keccak256(kept));
    }

    function testFuzz_ProofCheckEqualsOpenZeppelins(bytes32[] calldata proof, bytes32 root, bytes32 leaf)
        external
        view
    {
        (bool solady, bool openZeppelin) = _hashing.verify(proof, root, leaf);
        assertTrue(solady == openZeppelin);
        (solady, openZeppelin) = _hashing.verify(proof, MerkleProof.processProofCalldata(proof, leaf), leaf);
        assertTrue(solady && openZeppelin);
    }

    function testFuzz_ProofCheckEqualsOpenZeppelins_InTrees(uint8 size, uint8 chosen, uint256 flipped, bytes32 seed)
        external
        view
    {
        bytes32[] memory leaves = new bytes32[](bound(size, 1, 40));
        for (uint256 i = 0; i < leaves.length; ++i) {
            leaves[i] = keccak256(abi.encode(seed, i));
        }
        bytes32 leaf = leaves[chosen % leaves.length];
        bytes32[] memory tree = leaves.build();
        bytes32[] memory proof = tree.proofOf(leaf);
        (bool solady, bool openZeppelin) = _hashing.verify(proof, tree[0], leaf);
        assertTrue(solady && openZeppelin);
        if (proof.length == 0) return;
        proof[flipped % proof.length] ^= bytes32(uint256(1) << (flipped >> 248));
        (solady, openZeppelin) = _hashing.verify(proof, tree[0], leaf);
        assertFalse(solady || openZeppelin);
    }
}

contract MulticallTest is Fixture {
    /// What a relayer sends when it has several batches.
    function test_WhenSeveralBatchesAreAnchored() external {
        uint64 task = aTask(10 * PRICE);
        bytes[] memory calls = new bytes[](4);
        for (uint64 number = 0; number < 3; ++number) {
            Batch memory batch = aPaidBatch(number, task, PRICE, PRICE);
            calls[number] = abi.encodeCall(log.anchor, (batch, attest(batch)));
        }
        calls[3] = abi.encodeCall(log.sweepPoints, (provider));
        bytes[] memory results = log.multicall(calls);
        assertEq(abi.decode(results[3], (uint256)), 3 * PRICE);
        assertEq(log.providerOf(provider).nextBatch, 3);
        assertEq(token.balanceOf(address(treasury)), 3 * PRICE);
        assertEq(log.taskOf(task).escrow, 4 * PRICE);
    }

    function test_RevertWhen_OneOfThemIsRefused() external {
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(log.anchor, (aBatch(0), attest(aBatch(0))));
        calls[1] = abi.encodeCall(log.anchor, (aBatch(2), attest(aBatch(2))));
        vm.expectRevert(abi.encodeWithSelector(IProvenanceLog.BatchNumberUnexpected.selector, provider, 1, 2));
        log.multicall(calls);
        assertEq(log.providerOf(provider).nextBatch, 0);
    }

    /// The sender is the caller's in each, and the guard against reentrance opens again after each.
    function test_WhenSeveralTasksAreCreatedAndFunded() external {
        fund(sponsor, address(log), 6 * PRICE);
        bytes[] memory calls = new bytes[](4);
        calls[0] = calls[1] = abi.encodeCall(
            log.createTask, (provider, PRICE, uint64(NOW + 1), "terms", "ipfs://t", PRICE)
        );
        calls[2] = abi.encodeCall(log.fundTask, (1, PRICE));
        calls[3] = abi.encodeCall(log.fundTask, (2, 3 * PRICE));
        vm.prank(sponsor);
        log.multicall(calls);
        assertEq(log.taskOf(1).escrow, 2 * PRICE);
        assertEq(log.taskOf(2).escrow, 4 * PRICE);
        assertEq(log.taskOf(2).sponsor, sponsor);
        assertEq(token.balanceOf(sponsor), 0);
    }

    function test_RevertWhen_HoldIsReachedThroughMulticall() external {
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(log.hold, (provider, 0, 0, 0));
        vm.expectRevert(abi.encodeWithSelector(IRewardPool.OnlyDisputes.selector, stranger));
        vm.prank(stranger);
        log.multicall(calls);
    }

    function test_WhenThereAreNone() external {
        assertEq(log.multicall(new bytes[](0)).length, 0);
    }
}
