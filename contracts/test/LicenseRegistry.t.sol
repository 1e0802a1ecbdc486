// SPDX-License-Identifier: MIT OR Apache-2.0
// LicenseRegistry: offers, sales by every way of paying, pauses, revocation, transfer, and what a licence says.
pragma solidity ^0.8.28;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {IERC20Errors, IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IERC4906} from "@openzeppelin/contracts/interfaces/IERC4906.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Consent} from "../interfaces/IConsentRegistry.sol";
import {IERC5192} from "../interfaces/IERC5192.sol";
import {VersionContent} from "../interfaces/IIPRegistry.sol";
import {ILicenseRegistry, LicenseView, RoyaltyClaim, Terms} from "../interfaces/ILicenseRegistry.sol";
import {Authorization, Permit} from "../interfaces/IRewardPool.sol";
import {DatasetFixture} from "./IPRegistry.t.sol";
import {BlocklistToken, FalseToken, FeeToken, HookToken, RebasingToken, SilentToken} from "./mocks/Tokens.sol";

contract OfferTest is DatasetFixture {
    uint256 private _ipId;

    function setUp() public override {
        super.setUp();
        _ipId = register(contentOf(_members));
    }

    function expectTermsInvalid(Terms memory terms, string memory field) private {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.TermsInvalid.selector, field));
        offer(_ipId, terms);
    }

    function test_RevertWhen_DatasetIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.DatasetUnknown.selector, 1));
        offer(1, someTerms());
    }

    function test_RevertWhen_CallerIsNotItsProvider() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OnlyProvider.selector, provider, stranger));
        vm.prank(stranger);
        licenses.publishOffer(_ipId, someTerms());
    }

    function test_RevertWhen_APriceDurationOrSeatsAreZero() external {
        Terms memory terms = someTerms();
        terms.price = 0;
        expectTermsInvalid(terms, "price");
        terms = someTerms();
        terms.duration = 0;
        expectTermsInvalid(terms, "duration");
        terms = someTerms();
        terms.seats = 0;
        expectTermsInvalid(terms, "seats");
    }

    function testFuzz_RevertWhen_TheContributorsPartIsAboveAll(uint16 bps) external {
        Terms memory terms = someTerms();
        terms.contributorBps = uint16(bound(bps, 10_001, type(uint16).max));
        expectTermsInvalid(terms, "contributorBps");
    }

    function testFuzz_RevertWhen_TheResalePartIsAboveAll(uint16 bps) external {
        Terms memory terms = someTerms();
        terms.resaleBps = uint16(bound(bps, 10_001, type(uint16).max));
        expectTermsInvalid(terms, "resaleBps");
    }

    function testFuzz_RevertWhen_AResalePartIsAskedWhereNothingIsResold(uint16 bps) external {
        Terms memory terms = someTerms();
        terms.transferable = false;
        terms.resaleBps = uint16(bound(bps, 1, type(uint16).max));
        expectTermsInvalid(terms, "resaleBps");
    }

    function test_RevertWhen_TheLegalUriIsTooLong() external {
        Terms memory terms = someTerms();
        terms.legalUri = string(new bytes(257));
        expectTermsInvalid(terms, "legalUri");
        terms.legalUri = string(new bytes(256));
        offer(_ipId, terms);
    }

    function testFuzz_RevertWhen_TrainingIsAllowedWithoutItsPurpose(uint32 purposes) external {
        Terms memory terms = someTerms();
        terms.purposes = purposes & ~uint32(1 | 4);
        expectTermsInvalid(terms, "aiTraining");
    }

    function test_WhenTrainingHasItsPurpose_OrIsNotAllowed() external {
        Terms memory terms = someTerms();
        terms.purposes = 1;
        offer(_ipId, terms);
        terms.purposes = 4;
        offer(_ipId, terms);
        (terms.purposes, terms.aiTraining) = (0, false);
        assertEq(offer(_ipId, terms), 3);
    }

    function test_WhenTheTermsAreAtTheirLimits() external {
        Terms memory terms = someTerms();
        (terms.price, terms.duration, terms.seats) = (1, 1, 1);
        (terms.contributorBps, terms.resaleBps) = (10_000, 10_000);
        offer(_ipId, terms);
        (terms.price, terms.duration, terms.seats) = (type(uint128).max, type(uint64).max, type(uint32).max);
        (terms.contributorBps, terms.resaleBps, terms.transferable) = (0, 0, false);
        offer(_ipId, terms);
        (,, Terms memory kept) = licenses.offerOf(2);
        assertEq(keccak256(abi.encode(kept)), keccak256(abi.encode(terms)));
    }

    /// P13 is kept where the licence is sold: a later version may have more consents.
    function test_WhenAPurposeIsNotConsented_TheOfferWaits() external {
        Terms memory terms = someTerms();
        terms.purposes = 1 | 32;
        assertEq(offer(_ipId, terms), 1);
    }

    function test_WhenPublished() external {
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.OfferPublished(1, _ipId, someTerms());
        assertEq(offer(_ipId, someTerms()), 1);
        (uint256 ipId, bool open, Terms memory terms) = licenses.offerOf(1);
        assertEq(ipId, _ipId);
        assertTrue(open);
        assertEq(keccak256(abi.encode(terms)), keccak256(abi.encode(someTerms())));
    }

    function test_RevertWhen_OfferIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferUnknown.selector, 1));
        licenses.offerOf(1);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferUnknown.selector, 1));
        licenses.closeOffer(1);
    }

    function test_RevertWhen_SomebodyElseCloses() external {
        offer(_ipId, someTerms());
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OnlyProvider.selector, provider, stranger));
        vm.prank(stranger);
        licenses.closeOffer(1);
    }

    function test_WhenClosed_OnceOnly() external {
        offer(_ipId, someTerms());
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.OfferClosed(1);
        vm.prank(provider);
        licenses.closeOffer(1);
        (, bool open,) = licenses.offerOf(1);
        assertFalse(open);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferIsClosed.selector, 1));
        vm.prank(provider);
        licenses.closeOffer(1);
    }
}

contract BuyTest is DatasetFixture {
    uint128 private constant COST = 1000e6;
    uint256 private _ipId;
    Consent private _consent;

    function setUp() public override {
        super.setUp();
        _consent.contributor = payee;
        _consent.provider = provider;
        _members[0].consentId = consents.consentIdOf(_consent);
        _ipId = register(contentOf(_members));
        offer(_ipId, someTerms());
        fund(buyer, address(licenses), COST);
    }

    function buy(uint32 version, uint128 payment, address recipient) private returns (uint256) {
        vm.prank(buyer);
        return licenses.buy(1, version, payment, recipient);
    }

    function test_RevertWhen_RecipientIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.RecipientZero.selector));
        buy(1, COST, address(0));
    }

    function test_RevertWhen_OfferIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferUnknown.selector, 2));
        licenses.buy(2, 1, COST, buyer);
        Permit memory permit;
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferUnknown.selector, 2));
        licenses.buyWithPermit(2, 1, COST, buyer, permit);
    }

    function test_RevertWhen_OfferIsClosed() external {
        vm.prank(provider);
        licenses.closeOffer(1);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferIsClosed.selector, 1));
        buy(1, COST, buyer);
    }

    function test_RevertWhen_VersionIsNotTheNewest() external {
        addVersion(_ipId, contentOf(_members));
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.VersionNotForSale.selector, _ipId, 1, 2));
        buy(1, COST, buyer);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.VersionNotForSale.selector, _ipId, 3, 2));
        buy(3, COST, buyer);
    }

    function test_RevertWhen_AMemberHasWithdrawn_UntilANewVersion() external {
        vm.prank(payee);
        consents.withdraw(_consent);
        ips.reportWithdrawn(_ipId, 1, _members[0], proofOf(_members, 0));
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.VersionHasWithdrawnMember.selector, _ipId, 1));
        buy(1, COST, buyer);

        _members[0] = _members[2];
        _members.pop();
        addVersion(_ipId, contentOf(_members));
        assertEq(buy(2, COST, buyer), 1);
    }

    /// P5: any version but the newest.
    function testFuzz_RevertWhen_TheVersionIsAnother(uint32 version) external {
        vm.assume(version != 1);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.VersionNotForSale.selector, _ipId, version, 1));
        buy(version, COST, buyer);
    }

    /// P13
    function testFuzz_AnOfferSellsOnlyWhatAllMembersConsentedTo(uint32 offered, uint32 consented, bool within)
        external
    {
        if (within) offered &= consented;
        VersionContent memory content = contentOf(_members);
        content.purposes = consented;
        addVersion(_ipId, content);
        Terms memory terms = someTerms();
        (terms.purposes, terms.aiTraining) = (offered, false);
        uint64 offerId = offer(_ipId, terms);
        if (offered & ~consented != 0) {
            vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.PurposesNotConsented.selector, offered, consented));
        }
        vm.prank(buyer);
        licenses.buy(offerId, 2, COST, buyer);
        assertEq(licenses.licenseCount(), offered & ~consented != 0 ? 0 : 1);
    }

    /// P13: an offer made for an earlier version's consents is no longer sold after a narrower version.
    function test_RevertWhen_ANewVersionHasFewerConsents() external {
        buy(1, COST, buyer);
        VersionContent memory content = contentOf(_members);
        content.purposes = 1;
        addVersion(_ipId, content);
        fund(buyer, address(licenses), COST);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.PurposesNotConsented.selector, 17, 1));
        buy(2, COST, buyer);
    }

    function test_RevertWhen_TheBuyerHasNoAllowanceOrMoney() external {
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(licenses), 0, COST)
        );
        vm.prank(stranger);
        licenses.buy(1, 1, COST, stranger);
        vm.prank(stranger);
        token.approve(address(licenses), COST);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, stranger, 0, COST));
        vm.prank(stranger);
        licenses.buy(1, 1, COST, stranger);
        assertEq(licenses.licenseCount(), 0);
        assertEq(licenses.accumulatorOf(_ipId, 1), 0);
    }

    function test_RevertWhen_PaymentIsBelowPrice() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.PaymentBelowPrice.selector, COST, COST - 1));
        buy(1, COST - 1, buyer);
    }

    function testFuzz_RevertWhen_PaymentIsBelowPrice(uint128 payment) external {
        payment = uint128(bound(payment, 0, COST - 1));
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.PaymentBelowPrice.selector, COST, payment));
        buy(1, payment, buyer);
    }

    /* BAD TOKENS */

    /// @dev A stranger's dataset in a token of its own, one offer, and a buyer with the token.
    function sellOtherToken(string memory name, address other) private returns (uint64 offerId) {
        registerProvider(stranger, name, attestor, other, 0);
        uint256 ipId = registerAs(stranger, "d", contentOf(_members));
        vm.prank(stranger);
        offerId = licenses.publishOffer(ipId, someTerms());
        FeeToken(other).mint(buyer, 10 * COST);
        vm.prank(buyer);
        // Not every token answers: what comes back is not read.
        (bool ok,) = other.call(abi.encodeCall(token.approve, (address(licenses), 10 * COST)));
        assertTrue(ok);
    }

    function buyOf(uint64 offerId) private returns (uint256) {
        vm.prank(buyer);
        return licenses.buy(offerId, 1, COST, buyer);
    }

    /// P12
    function test_RevertWhen_TheTokenTakesAFee() external {
        uint64 offerId = sellOtherToken("fee", address(new FeeToken()));
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.AmountReceivedDiffers.selector, COST, COST - 1));
        buyOf(offerId);
    }

    /// P12: what another provider's token loses is not made up for with this one's.
    function test_WhenTheTokenRebasesDown_TheOthersArePaid() external {
        RebasingToken rebasing = new RebasingToken();
        uint64 offerId = sellOtherToken("rebasing", address(rebasing));
        buyOf(offerId);
        buy(1, COST, buyer);
        rebasing.rebase(0.5e18);
        uint256 ipId = ips.datasetIdOf(stranger, "d");
        bytes32[] memory proof = proofOf(_members, 0);
        bytes32[] memory proofOfOther = proofOf(_members, 2);
        // 350 came in, 175 are left: the first is paid 140, the second can't have its 210.
        licenses.claimRoyalty(ipId, 1, _members[2], proofOfOther);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, address(licenses), 70e6, 420e6)
        );
        licenses.claimRoyalty(ipId, 1, _members[0], proof);
        assertEq(licenses.claimRoyalty(_ipId, 1, _members[0], proof), 210e6);
    }

    /// P12
    function test_RevertWhen_TheTokenAnswersFalse() external {
        FalseToken falseToken = new FalseToken();
        uint64 offerId = sellOtherToken("false", address(falseToken));
        falseToken.setFailing(true);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(falseToken)));
        buyOf(offerId);
        falseToken.setFailing(false);
        assertEq(buyOf(offerId), 1);
        // Nor is a member's royalty lost while the token answers false.
        falseToken.setFailing(true);
        uint256 ipId = ips.datasetIdOf(stranger, "d");
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(falseToken)));
        licenses.claimRoyalty(ipId, 1, _members[0], proof);
        falseToken.setFailing(false);
        assertEq(licenses.claimRoyalty(ipId, 1, _members[0], proof), 210e6);
    }

    /// P12
    function test_WhenTheTokenAnswersNothing() external {
        SilentToken silent = new SilentToken();
        uint64 offerId = sellOtherToken("silent", address(silent));
        assertEq(buyOf(offerId), 1);
        assertEq(silent.balanceOf(stranger), 300e6);
        uint256 ipId = ips.datasetIdOf(stranger, "d");
        licenses.claimRoyalty(ipId, 1, _members[0], proofOf(_members, 0));
        assertEq(silent.balanceOf(payee), 210e6);
    }

    /// P12: one blocked payee stops neither the sales nor the other members' royalties.
    function test_WhenTheTokenBlocksAPayee_TheOthersArePaid() external {
        BlocklistToken blocklist = new BlocklistToken();
        uint64 offerId = sellOtherToken("block", address(blocklist));
        buyOf(offerId);
        blocklist.setBlocked(payee, true);
        assertEq(buyOf(offerId), 2);
        uint256 ipId = ips.datasetIdOf(stranger, "d");
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectRevert(abi.encodeWithSelector(BlocklistToken.Blocked.selector, payee));
        licenses.claimRoyalty(ipId, 1, _members[0], proof);
        assertEq(licenses.claimRoyalty(ipId, 1, _members[2], proofOf(_members, 2)), 280e6);
        blocklist.setBlocked(payee, false);
        assertEq(licenses.claimRoyalty(ipId, 1, _members[0], proof), 420e6);
    }

    /// P12: a blocked provider can't be paid, so its own sales stop; nobody else's do.
    function test_WhenTheTokenBlocksItsProvider_OnlyItsSalesStop() external {
        BlocklistToken blocklist = new BlocklistToken();
        uint64 offerId = sellOtherToken("block", address(blocklist));
        blocklist.setBlocked(stranger, true);
        vm.expectRevert(abi.encodeWithSelector(BlocklistToken.Blocked.selector, stranger));
        buyOf(offerId);
        assertEq(buy(1, COST, buyer), 1);
    }

    /// @dev Sells in a token that calls `call` back; returns what that reverted with.
    function reenter(bytes memory call) private returns (bytes memory) {
        HookToken hook = new HookToken();
        uint64 offerId = sellOtherToken("hook", address(hook));
        hook.onTransfer(address(licenses), call);
        buyOf(offerId);
        assertEq(hook.hooks(), 1);
        assertEq(licenses.licenseCount(), 1);
        return hook.failure();
    }

    function expectGuarded(bytes memory call) private {
        assertEq(
            keccak256(reenter(call)),
            keccak256(abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector))
        );
    }

    /// P12
    function test_WhenTheTokenReentersAClaim_TheInnerCallFails() external {
        uint256 ipId = ips.datasetIdOf(stranger, "d");
        expectGuarded(abi.encodeCall(licenses.claimRoyalty, (ipId, 1, _members[0], proofOf(_members, 0))));
    }

    function test_WhenTheTokenReentersClaims_TheInnerCallFails() external {
        expectGuarded(abi.encodeCall(licenses.claimRoyalties, (new RoyaltyClaim[](0))));
    }

    function test_WhenTheTokenReentersASale_TheInnerCallFails() external {
        expectGuarded(abi.encodeCall(licenses.buy, (1, 1, COST, buyer)));
    }

    function test_WhenTheTokenReentersASaleByPermit_TheInnerCallFails() external {
        Permit memory permit;
        expectGuarded(abi.encodeCall(licenses.buyWithPermit, (1, 1, COST, buyer, permit)));
    }

    function test_WhenTheTokenReentersASaleByAuthorization_TheInnerCallFails() external {
        Authorization memory authorization;
        expectGuarded(abi.encodeCall(licenses.buyWithAuthorization, (1, 1, buyer, buyer, authorization)));
    }

    /* WHAT A SALE DOES */

    function test_WhenBought_ThePriceIsSplit() external {
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.LicenseSold(
            1, _ipId, 1, 1, buyer, COST, 300e6, 350e6, 350e6, uint64(NOW), uint64(NOW + 365 days)
        );
        assertEq(buy(1, COST, stranger), 1);
        assertEq(licenses.ownerOf(1), stranger);
        assertEq(licenses.licenseCount(), 1);
        assertEq(token.balanceOf(provider), 300e6);
        assertEq(token.balanceOf(address(treasury)), 350e6);
        assertEq(token.balanceOf(address(licenses)), 350e6);
        assertEq(licenses.accumulatorOf(_ipId, 1), (uint256(350e6) << 128) / 50);
        fund(buyer, address(licenses), COST);
        buy(1, COST, buyer);
        assertEq(licenses.accumulatorOf(_ipId, 1), 2 * ((uint256(350e6) << 128) / 50));
        assertEq(licenses.licenseCount(), 2);
    }

    /// P14: the parts sum to the price, and each is its exact part to the unit.
    function testFuzz_ThePartsSumToThePrice(uint128 price, uint16 bps, uint96 wallet, uint96 points) external {
        bps = uint16(bound(bps, 0, 10_000));
        price = uint128(bound(price, 1, type(uint128).max));
        points = uint96(bound(points, 0, type(uint96).max - 1));
        VersionContent memory content = contentOf(_members);
        content.totalWeight = uint128(bound(wallet, uint256(points) + 1, type(uint96).max));
        content.pointsWeight = points;
        addVersion(_ipId, content);
        Terms memory terms = someTerms();
        (terms.price, terms.contributorBps) = (price, bps);
        uint64 offerId = offer(_ipId, terms);
        uint256 funds = token.balanceOf(buyer);
        token.mint(buyer, price);
        vm.prank(buyer);
        licenses.buy(offerId, 2, price, buyer);

        uint256 pot = uint256(price) * bps / 10_000;
        uint256 inPoints = pot * points / content.totalWeight;
        assertEq(token.balanceOf(buyer), funds);
        assertEq(token.balanceOf(provider), price - pot);
        assertEq(token.balanceOf(address(treasury)), inPoints);
        assertEq(token.balanceOf(address(licenses)), pot - inPoints);
        uint256 weight = content.totalWeight - points;
        assertEq(licenses.accumulatorOf(_ipId, 2), ((pot - inPoints) << 128) / weight);
    }

    function test_WhenTheSalesOverflowTheAccumulator_TheSaleIsRefused() external {
        delete _members;
        _members.push(aMember(0, payee, 1));
        addVersion(_ipId, contentOf(_members));
        Terms memory terms = someTerms();
        (terms.price, terms.contributorBps) = (type(uint128).max, 10_000);
        uint64 offerId = offer(_ipId, terms);
        token.mint(buyer, type(uint128).max);
        vm.prank(buyer);
        licenses.buy(offerId, 2, terms.price, buyer);
        token.mint(buyer, type(uint128).max);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        vm.prank(buyer);
        licenses.buy(offerId, 2, terms.price, buyer);
        assertEq(licenses.licenseCount(), 1);
    }

    /// P14: a sale writes as much for 2^32−1 members as for one.
    function test_WhenBought_NoMemberIsTouched() external {
        VersionContent memory content = contentOf(_members);
        content.memberCount = type(uint32).max;
        addVersion(_ipId, content);
        buy(2, COST, buyer);
        for (uint256 i = 0; i < 3; ++i) {
            bytes32 leaf = ips.memberLeafOf(_members[i]);
            assertEq(licenses.royaltyClaimedOf(_ipId, 2, leaf), 0);
        }
    }

    function test_WhenNotTransferable_TheTokenIsLockedFromItsSale() external {
        Terms memory terms = someTerms();
        (terms.transferable, terms.resaleBps) = (false, 0);
        uint64 offerId = offer(_ipId, terms);
        vm.expectEmit(address(licenses));
        emit IERC5192.Locked(1);
        vm.prank(buyer);
        licenses.buy(offerId, 1, COST, buyer);
        assertTrue(licenses.locked(1));
    }

    function test_WhenTransferable_TheTokenIsUnlockedFromItsSale() external {
        vm.recordLogs();
        vm.expectEmit(address(licenses));
        emit IERC5192.Unlocked(1);
        buy(1, COST, buyer);
        assertEq(countLogs(address(licenses), IERC5192.Locked.selector), 0);
        assertFalse(licenses.locked(1));
    }

    /// ERC-4906: the page names the holder.
    function test_WhenALicenceMoves_ItsPageChanges() external {
        buy(1, COST, buyer);
        vm.expectEmit(address(licenses));
        emit IERC4906.MetadataUpdate(1);
        vm.prank(buyer);
        licenses.transferFrom(buyer, stranger, 1);
    }

    function test_WhenPaymentIsAboveThePrice_OnlyThePriceIsTaken() external {
        fund(buyer, address(licenses), 1);
        buy(1, COST + 1, buyer);
        assertEq(token.balanceOf(buyer), 1);
    }

    function test_WhenAllMembersArePaidInPoints_TheTreasuryGetsThePot() external {
        for (uint256 i = 0; i < 3; ++i) {
            _members[i].payee = address(0);
        }
        addVersion(_ipId, contentOf(_members));
        buy(2, COST, buyer);
        assertEq(token.balanceOf(address(treasury)), 700e6);
        assertEq(token.balanceOf(address(licenses)), 0);
        assertEq(licenses.accumulatorOf(_ipId, 2), 0);
    }

    function test_WhenContributorsGetNothing_OrAll() external {
        Terms memory terms = someTerms();
        terms.contributorBps = 0;
        offer(_ipId, terms);
        terms.contributorBps = 10_000;
        offer(_ipId, terms);
        sell(_ipId, 2, COST);
        assertEq(token.balanceOf(provider), COST);
        sell(_ipId, 3, COST);
        assertEq(token.balanceOf(provider), COST);
        assertEq(token.balanceOf(address(licenses)), COST / 2);
    }

    function test_WhenAllMembersHaveAWallet_TheTreasuryGetsNothing() external {
        _members[1].payee = stranger;
        addVersion(_ipId, contentOf(_members));
        buy(2, COST, buyer);
        assertEq(token.balanceOf(address(treasury)), 0);
        assertEq(token.balanceOf(address(licenses)), 700e6);
    }

    /* PERMITS */

    function test_WhenPermitted() external {
        token.mint(stranger, COST);
        Permit memory permit = permitOf(keyOf("stranger"), address(licenses), COST);
        vm.prank(stranger);
        assertEq(licenses.buyWithPermit(1, 1, COST, payee, permit), 1);
        assertEq(licenses.ownerOf(1), payee);
        assertEq(token.balanceOf(stranger), 0);
    }

    function test_WhenSomebodyCarriedThePermitBefore_TheAllowanceDecides() external {
        token.mint(stranger, COST);
        Permit memory permit = permitOf(keyOf("stranger"), address(licenses), COST);
        token.permit(stranger, address(licenses), COST, permit.deadline, permit.v, permit.r, permit.s);
        vm.prank(stranger);
        assertEq(licenses.buyWithPermit(1, 1, COST, stranger, permit), 1);
    }

    function test_WhenThePermitIsAboveThePrice_OnlyThePriceIsTaken() external {
        token.mint(stranger, COST + 5);
        Permit memory permit = permitOf(keyOf("stranger"), address(licenses), COST + 5);
        vm.prank(stranger);
        licenses.buyWithPermit(1, 1, COST + 5, stranger, permit);
        assertEq(token.balanceOf(stranger), 5);
    }

    /// The caller's own permit only: another's can't be spent.
    function test_RevertWhen_ThePermitIsSomebodyElses() external {
        token.mint(stranger, COST);
        Permit memory permit = permitOf(keyOf("stranger"), address(licenses), COST);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(licenses), 0, COST)
        );
        vm.prank(payee);
        licenses.buyWithPermit(1, 1, COST, payee, permit);
        assertEq(token.balanceOf(stranger), COST);
    }

    function test_RevertWhen_APermittedSaleIsRefused() external {
        Permit memory permit;
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.PaymentBelowPrice.selector, COST, COST - 1));
        vm.prank(stranger);
        licenses.buyWithPermit(1, 1, COST - 1, stranger, permit);
    }

    /* AUTHORISATIONS */

    /// @dev The buyer's authorisation for offer 1.
    function authorize(uint32 version, address recipient, uint256 value) private view returns (Authorization memory) {
        bytes32 purpose = keccak256(abi.encode(keccak256("buy"), uint64(1), version, recipient, bytes32("salt")));
        return authorizationOf(keyOf("buyer"), address(licenses), value, purpose, "salt");
    }

    function buyAuthorized(uint64 offerId, uint32 version, address recipient, Authorization memory authorization)
        private
        returns (uint256)
    {
        vm.prank(stranger);
        return licenses.buyWithAuthorization(offerId, version, recipient, buyer, authorization);
    }

    function test_WhenAuthorized_AnyoneMayCarryIt() external {
        vm.prank(buyer);
        token.approve(address(licenses), 0);
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.LicenseSold(
            1, _ipId, 1, 1, buyer, COST, 300e6, 350e6, 350e6, uint64(NOW), uint64(NOW + 365 days)
        );
        assertEq(buyAuthorized(1, 1, payee, authorize(1, payee, COST)), 1);
        assertEq(licenses.ownerOf(1), payee);
        assertEq(token.balanceOf(buyer), 0);
        assertEq(token.balanceOf(provider), 300e6);
        assertEq(token.balanceOf(address(licenses)), 350e6);
    }

    /// P16: a front-runner can't take the licence.
    function testFuzz_RevertWhen_TheAuthorizationIsForAnotherRecipient(address recipient) external {
        vm.assume(recipient != buyer && recipient != address(0));
        Authorization memory authorization = authorize(1, buyer, COST);
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009InvalidSignature.selector));
        buyAuthorized(1, 1, recipient, authorization);
    }

    /// P16: nor sell something else for the money.
    function test_RevertWhen_TheAuthorizationIsForAnotherOffer() external {
        offer(_ipId, someTerms());
        Authorization memory authorization = authorize(1, buyer, COST);
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009InvalidSignature.selector));
        buyAuthorized(2, 1, buyer, authorization);
    }

    /// P5, P16
    function test_RevertWhen_TheAuthorizationIsForAnotherVersion() external {
        Authorization memory authorization = authorize(1, buyer, COST);
        addVersion(_ipId, contentOf(_members));
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.VersionNotForSale.selector, _ipId, 1, 2));
        buyAuthorized(1, 1, buyer, authorization);
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009InvalidSignature.selector));
        buyAuthorized(1, 2, buyer, authorization);
    }

    function test_RevertWhen_TheAuthorizationIsForAnotherValueOrSalt() external {
        Authorization memory authorization = authorize(1, buyer, COST - 1);
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009InvalidSignature.selector));
        buyAuthorized(1, 1, buyer, authorization);
        authorization = authorize(1, buyer, COST);
        authorization.salt = "pepper";
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009InvalidSignature.selector));
        buyAuthorized(1, 1, buyer, authorization);
    }

    function test_RevertWhen_TheAuthorizationIsOfAnotherBuyer() external {
        token.mint(payee, COST);
        Authorization memory authorization = authorize(1, buyer, COST);
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009InvalidSignature.selector));
        licenses.buyWithAuthorization(1, 1, buyer, payee, authorization);
    }

    /// P3
    function test_RevertWhen_TheAuthorizationIsReplayed() external {
        token.mint(buyer, COST);
        Authorization memory authorization = authorize(1, buyer, COST);
        buyAuthorized(1, 1, buyer, authorization);
        bytes32 purpose = keccak256(abi.encode(keccak256("buy"), uint64(1), uint32(1), buyer, bytes32("salt")));
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, buyer, (purpose >> 64) << 64));
        buyAuthorized(1, 1, buyer, authorization);
        assertEq(licenses.licenseCount(), 1);
        assertEq(token.balanceOf(buyer), COST);
    }

    function test_RevertWhen_TheAuthorizationHasEnded() external {
        Authorization memory authorization = authorize(1, buyer, COST);
        vm.warp(authorization.validBefore);
        vm.expectRevert(
            abi.encodeWithSelector(ERC3009.ERC3009InvalidAuthorizationTime.selector, 0, authorization.validBefore)
        );
        buyAuthorized(1, 1, buyer, authorization);
    }

    /// P16: nobody can carry it straight to the token and leave the buyer without a licence.
    function test_RevertWhen_TheAuthorizationIsCarriedToTheToken() external {
        Authorization memory a = authorize(1, buyer, COST);
        bytes32 purpose = keccak256(abi.encode(keccak256("buy"), uint64(1), uint32(1), buyer, bytes32("salt")));
        bytes32 nonce = (purpose >> 64) << 64;
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(licenses)));
        vm.prank(stranger);
        token.receiveWithAuthorization(
            buyer, address(licenses), COST, a.validAfter, a.validBefore, nonce, a.v, a.r, a.s
        );
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009InvalidSignature.selector));
        vm.prank(stranger);
        token.transferWithAuthorization(
            buyer, address(licenses), COST, a.validAfter, a.validBefore, nonce, a.v, a.r, a.s
        );
    }

    /* PAUSE AND MULTICALL */

    function pause() private {
        vm.prank(pauser);
        licenses.pause();
    }

    /// P17
    function test_RevertWhen_AnyoneElsePausesOrUnpauses() external {
        address[3] memory others = [stranger, provider, admin];
        for (uint256 i = 0; i < others.length; ++i) {
            bytes memory revertData =
                abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, others[i]);
            vm.expectRevert(revertData);
            vm.prank(others[i]);
            licenses.pause();
            vm.expectRevert(revertData);
            vm.prank(others[i]);
            licenses.unpause();
        }
    }

    /// P17: a batch of calls doesn't hide who calls.
    function test_RevertWhen_AStrangerPausesInAMulticall() external {
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(licenses.pause, ());
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, stranger));
        vm.prank(stranger);
        licenses.multicall(calls);
    }

    /// P17: who pauses with a delay has to say so that long before.
    function test_WhenThePausersRoleHasADelay_ItHolds() external {
        vm.prank(admin);
        authority.grantRole(PAUSER, operator, 1 days);
        bytes memory call = abi.encodeCall(licenses.pause, ());
        bytes32 id = authority.hashOperation(operator, address(licenses), call);
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotScheduled.selector, id));
        vm.prank(operator);
        licenses.pause();
        vm.prank(operator);
        authority.schedule(address(licenses), call, 0);
        vm.warp(NOW + 1 days - 1);
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotReady.selector, id));
        vm.prank(operator);
        licenses.pause();
        vm.warp(NOW + 1 days);
        vm.prank(operator);
        licenses.pause();
        assertTrue(licenses.paused());
    }

    /// P10: every way of buying stops, until the pause ends.
    function test_WhenPaused_NothingIsSold() external {
        Authorization memory authorization = authorize(1, buyer, COST);
        Permit memory permit;
        pause();
        vm.expectRevert(abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        buy(1, COST, buyer);
        vm.expectRevert(abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        vm.prank(buyer);
        licenses.buyWithPermit(1, 1, COST, buyer, permit);
        vm.expectRevert(abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        buyAuthorized(1, 1, buyer, authorization);
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(licenses.buy, (1, 1, COST, buyer));
        vm.expectRevert(abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        vm.prank(buyer);
        licenses.multicall(calls);

        vm.prank(pauser);
        licenses.unpause();
        assertEq(buyAuthorized(1, 1, buyer, authorization), 1);
    }

    /// P9, P10: royalties, withdrawals of consent, offers' ends, revocations and transfers go on.
    function test_WhenPaused_EverythingElseGoesOn() external {
        uint256 licenseId = buy(1, COST, buyer);
        bytes32[] memory proof = proofOf(_members, 0);
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](1);
        claims[0] = RoyaltyClaim({ipId: _ipId, version: 1, member: _members[2], proof: proofOf(_members, 2)});
        pause();
        licenses.claimRoyalty(_ipId, 1, _members[0], proof);
        licenses.claimRoyalties(claims);
        assertEq(token.balanceOf(payee), 210e6);
        assertEq(token.balanceOf(stranger), 140e6);
        vm.prank(payee);
        consents.withdraw(_consent);
        ips.reportWithdrawn(_ipId, 1, _members[0], proof);
        offer(_ipId, someTerms());
        vm.prank(provider);
        licenses.closeOffer(2);
        vm.prank(buyer);
        licenses.transferFrom(buyer, stranger, licenseId);
        vm.prank(provider);
        licenses.revoke(licenseId, "cause");
        assertEq(licenses.verify(licenseId).holder, stranger);
    }

    function test_RevertWhen_PausedOrUnpausedTwice() external {
        vm.expectRevert(abi.encodeWithSelector(Pausable.ExpectedPause.selector));
        vm.prank(pauser);
        licenses.unpause();
        pause();
        vm.expectRevert(abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        pause();
    }

    function test_WhenManyCallsAreOne_AllOrNothingHappens() external {
        token.mint(buyer, COST);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(licenses.buy, (1, 1, COST, buyer));
        calls[1] = abi.encodeCall(licenses.buy, (1, 1, COST, payee));
        vm.prank(buyer);
        bytes[] memory results = licenses.multicall(calls);
        assertEq(abi.decode(results[0], (uint256)), 1);
        assertEq(abi.decode(results[1], (uint256)), 2);
        assertEq(licenses.ownerOf(2), payee);

        token.mint(buyer, COST);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, buyer, 0, COST));
        vm.prank(buyer);
        licenses.multicall(calls);
        assertEq(licenses.licenseCount(), 2);
        assertEq(token.balanceOf(buyer), COST);
    }
}

contract LicenseTest is DatasetFixture {
    uint256 private _ipId;
    uint256 private _licenseId;

    function setUp() public override {
        super.setUp();
        _ipId = register(contentOf(_members));
        offer(_ipId, someTerms());
        _licenseId = sell(_ipId, 1, 1000e6);
    }

    function revoke() private {
        vm.prank(provider);
        licenses.revoke(_licenseId, "data resold");
    }

    function test_RevertWhen_LicenceIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.LicenseUnknown.selector, 9));
        licenses.verify(9);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.LicenseUnknown.selector, 9));
        licenses.tokenURI(9);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.LicenseUnknown.selector, 9));
        licenses.revoke(9, "cause");
    }

    function test_RevertWhen_SomebodyElseRevokes() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OnlyProvider.selector, provider, buyer));
        vm.prank(buyer);
        licenses.revoke(_licenseId, "cause");
    }

    function test_RevertWhen_TheCauseIsTooLong() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.TextTooLong.selector, 257, 256));
        vm.prank(provider);
        licenses.revoke(_licenseId, string(new bytes(257)));
        vm.prank(provider);
        licenses.revoke(_licenseId, string(new bytes(256)));
    }

    function test_RevertWhen_RevokedTwice() external {
        revoke();
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.AlreadyRevoked.selector, _licenseId));
        revoke();
    }

    function test_WhenActive() external view {
        LicenseView memory license = licenses.verify(_licenseId);
        assertTrue(license.active);
        assertEq(license.status, "active");
        assertEq(license.holder, buyer);
        assertEq(license.ipId, _ipId);
        assertEq(license.version, 1);
        assertEq(license.offerId, 1);
        assertEq(license.startsAt, NOW);
        assertEq(license.endsAt, NOW + 365 days);
        assertEq(license.paid, 1000e6);
        assertEq(keccak256(abi.encode(license.terms)), keccak256(abi.encode(someTerms())));
    }

    function test_WhenItsEndIsReached_ItIsExpired() external {
        vm.warp(NOW + 365 days - 1);
        assertTrue(licenses.verify(_licenseId).active);
        vm.warp(NOW + 365 days);
        assertFalse(licenses.verify(_licenseId).active);
        assertEq(licenses.verify(_licenseId).status, "expired");
    }

    function test_WhenRevoked() external {
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.LicenseRevoked(_licenseId, "data resold");
        vm.expectEmit(address(licenses));
        emit IERC4906.MetadataUpdate(_licenseId);
        revoke();
        LicenseView memory license = licenses.verify(_licenseId);
        assertFalse(license.active);
        assertEq(license.status, "revoked");
        assertEq(license.revocationCause, "data resold");
        // Also when it would have expired.
        vm.warp(NOW + 365 days);
        assertEq(licenses.verify(_licenseId).status, "revoked");
        assertFalse(licenses.verify(_licenseId).active);
    }

    /// P8: active exactly from the sale until its end, if not revoked before.
    function testFuzz_ItIsActiveExactlyWhileItIs(uint64 duration, uint64 later, bool revoked) external {
        Terms memory terms = someTerms();
        terms.duration = uint64(bound(duration, 1, type(uint64).max));
        uint256 licenseId = sell(_ipId, offer(_ipId, terms), terms.price);
        if (revoked) {
            vm.prank(provider);
            licenses.revoke(licenseId, "");
        }
        uint256 time = NOW + bound(later, 0, type(uint64).max - NOW);
        vm.warp(time);
        uint256 end = NOW + terms.duration;
        if (end > type(uint64).max) end = type(uint64).max;
        LicenseView memory license = licenses.verify(licenseId);
        assertEq(license.endsAt, end);
        assertTrue(license.active == (!revoked && time < end));
        assertEq(license.status, revoked ? "revoked" : time < end ? "active" : "expired");
    }

    function test_WhenTheOfferIsClosedOrTheVersionOld_TheLicenceStays() external {
        vm.prank(provider);
        licenses.closeOffer(1);
        addVersion(_ipId, contentOf(_members));
        assertTrue(licenses.verify(_licenseId).active);
        assertEq(licenses.verify(_licenseId).version, 1);
    }

    function test_WhenTheDurationIsHuge_ItEndsAtTheLastSecond() external {
        Terms memory terms = someTerms();
        terms.duration = type(uint64).max;
        uint256 licenseId = sell(_ipId, offer(_ipId, terms), terms.price);
        assertEq(licenses.verify(licenseId).endsAt, type(uint64).max);
    }

    function test_WhenTransferable() external {
        vm.prank(buyer);
        licenses.transferFrom(buyer, stranger, _licenseId);
        assertEq(licenses.verify(_licenseId).holder, stranger);
        assertFalse(licenses.locked(_licenseId));
        vm.prank(stranger);
        licenses.safeTransferFrom(stranger, payee, _licenseId);
        assertEq(licenses.ownerOf(_licenseId), payee);
    }

    /// P8: a sold-on licence keeps its end, and its provider may still revoke it.
    function test_WhenTransferred_NothingElseChanges() external {
        LicenseView memory before = licenses.verify(_licenseId);
        vm.prank(buyer);
        licenses.transferFrom(buyer, stranger, _licenseId);
        before.holder = stranger;
        assertEq(keccak256(abi.encode(licenses.verify(_licenseId))), keccak256(abi.encode(before)));
        revoke();
        assertFalse(licenses.verify(_licenseId).active);
    }

    function lockedLicense() private returns (uint256) {
        Terms memory terms = someTerms();
        (terms.transferable, terms.resaleBps) = (false, 0);
        return sell(_ipId, offer(_ipId, terms), terms.price);
    }

    function test_RevertWhen_NotTransferable() external {
        uint256 licenseId = lockedLicense();
        vm.prank(buyer);
        licenses.setApprovalForAll(operator, true);
        bytes memory revertData = abi.encodeWithSelector(ILicenseRegistry.NotTransferable.selector, licenseId);
        address[2] memory callers = [buyer, operator];
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(revertData);
            vm.prank(callers[i]);
            licenses.transferFrom(buyer, stranger, licenseId);
            vm.expectRevert(revertData);
            vm.prank(callers[i]);
            licenses.safeTransferFrom(buyer, stranger, licenseId);
            vm.expectRevert(revertData);
            vm.prank(callers[i]);
            licenses.safeTransferFrom(buyer, stranger, licenseId, "data");
        }
        assertEq(licenses.ownerOf(licenseId), buyer);
        assertTrue(licenses.locked(licenseId));
    }

    function test_RevertWhen_LockedOrRoyaltyIsAskedOfNoToken() external {
        bytes memory revertData = abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 9);
        vm.expectRevert(revertData);
        licenses.locked(9);
        vm.expectRevert(revertData);
        licenses.royaltyInfo(9, 1);
    }

    /// ERC-2981: to the provider, rounded down, for every price there is.
    function testFuzz_TheResaleRoyaltyIsTheProviders(uint16 bps, uint256 price) external {
        Terms memory terms = someTerms();
        terms.resaleBps = uint16(bound(bps, 0, 10_000));
        uint256 licenseId = sell(_ipId, offer(_ipId, terms), terms.price);
        (address receiver, uint256 amount) = licenses.royaltyInfo(licenseId, price);
        assertEq(receiver, provider);
        // price · bps / 10,000 without an overflow.
        assertEq(amount, price / 10_000 * terms.resaleBps + price % 10_000 * terms.resaleBps / 10_000);
    }

    function test_WhenNotTransferable_ThereIsNoResaleRoyalty() external {
        (, uint256 amount) = licenses.royaltyInfo(lockedLicense(), 1e30);
        assertEq(amount, 0);
    }

    /// ERC-165 ids as the standards print them.
    function test_SupportsItsInterfaces() external view {
        assertTrue(licenses.supportsInterface(0x01ffc9a7));
        assertTrue(licenses.supportsInterface(0x80ac58cd));
        assertTrue(licenses.supportsInterface(0x5b5e139f));
        assertTrue(licenses.supportsInterface(0x49064906));
        assertTrue(licenses.supportsInterface(0xb45a3c0e));
        assertTrue(licenses.supportsInterface(0x2a55205a));
        assertTrue(licenses.supportsInterface(0xe8a3d485));
        assertTrue(licenses.supportsInterface(type(ILicenseRegistry).interfaceId));
        assertFalse(licenses.supportsInterface(0xffffffff));
    }
}
