// SPDX-License-Identifier: MIT OR Apache-2.0
// Sells licences to dataset versions as ERC-721 tokens and splits each price between provider, points and wallets.
pragma solidity ^0.8.28;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {IERC165} from "@openzeppelin/contracts/interfaces/IERC165.sol";
import {IERC2981} from "@openzeppelin/contracts/interfaces/IERC2981.sol";
import {IERC4906} from "@openzeppelin/contracts/interfaces/IERC4906.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IERC5192} from "../interfaces/IERC5192.sol";
import {IERC7572} from "../interfaces/IERC7572.sol";
import {IIPRegistry, Sale} from "../interfaces/IIPRegistry.sol";
import {ILicenseRegistry, LicenseView, Terms} from "../interfaces/ILicenseRegistry.sol";
import {IProvenanceLog} from "../interfaces/IProvenanceLog.sol";
import {IRenderer} from "../interfaces/IRenderer.sol";
import {Authorization, Permit} from "../interfaces/IRewardPool.sol";
import {RoyaltyPool} from "./RoyaltyPool.sol";
import {TokenIntake} from "./TokenIntake.sol";

contract LicenseRegistry is
    IERC2981,
    IERC4906,
    IERC5192,
    IERC7572,
    ERC721,
    RoyaltyPool,
    AccessManaged,
    Multicall,
    Pausable
{
    using SafeCast for uint256;
    using SafeERC20 for IERC20;
    using TokenIntake for IERC20;

    uint256 private constant BPS = 10_000;
    bytes32 private constant BUY = keccak256("buy");
    /// The bits train and fine-tune of Consent.purposes.
    /// @dev Every node writes a page with such a text in one call.
    uint256 private constant TEXT_LENGTH_MAX = 256;
    uint32 private constant TRAINING = 1 | 4;
    /// As ERC-4906 gives it.
    bytes4 private constant IERC4906_ID = 0x49064906;

    IProvenanceLog private immutable LOG;
    IRenderer private immutable RENDERER;

    /// An offer's terms never change, so a licence keeps its terms by naming its offer.
    struct Offer {
        uint256 ipId;
        bool open;
        Terms terms;
    }

    struct License {
        uint64 offerId;
        uint32 version;
        uint64 startsAt;
        uint64 endsAt;
        bool revoked;
    }

    /// What a buyer owes, and where it goes: the three shares sum to the price.
    struct Payment {
        IERC20 token;
        address provider;
        address pointsTreasury;
        uint128 price;
        uint128 providerShare;
        uint128 pointsShare;
        /// Stays here for the members' wallets.
        uint128 walletShare;
    }

    /* STORAGE */

    uint64 private _offerCount;
    /// @inheritdoc ILicenseRegistry
    uint128 public licenseCount;
    mapping(uint64 offerId => Offer) private _offers;
    mapping(uint256 licenseId => License) private _licenses;
    mapping(uint256 licenseId => string) private _revocationCauses;

    /// @param authority_ An AccessManager: who may pause sales.
    constructor(IProvenanceLog log, IIPRegistry ipRegistry, IRenderer renderer, address authority_)
        ERC721("Tidemark Licence", "TIDE-L")
        RoyaltyPool(ipRegistry)
        AccessManaged(authority_)
    {
        LOG = log;
        RENDERER = renderer;
    }

    /* OFFERS */

    /// @inheritdoc ILicenseRegistry
    function publishOffer(uint256 ipId, Terms calldata terms) external returns (uint64 offerId) {
        _onlyProviderOf(ipId);
        require(terms.price > 0, TermsInvalid("price"));
        require(terms.duration > 0, TermsInvalid("duration"));
        require(terms.seats > 0, TermsInvalid("seats"));
        require(terms.contributorBps <= BPS, TermsInvalid("contributorBps"));
        require(terms.resaleBps <= (terms.transferable ? BPS : 0), TermsInvalid("resaleBps"));
        require(!terms.aiTraining || terms.purposes & TRAINING != 0, TermsInvalid("aiTraining"));
        require(bytes(terms.legalUri).length <= TEXT_LENGTH_MAX, TermsInvalid("legalUri"));

        offerId = ++_offerCount;
        _offers[offerId] = Offer({ipId: ipId, open: true, terms: terms});
        emit OfferPublished(offerId, ipId, terms);
    }

    /// @inheritdoc ILicenseRegistry
    function closeOffer(uint64 offerId) external {
        Offer storage offer = _offers[offerId];
        require(offer.ipId != 0, OfferUnknown(offerId));
        _onlyProviderOf(offer.ipId);
        require(offer.open, OfferIsClosed(offerId));

        offer.open = false;
        emit OfferClosed(offerId);
    }

    /* SALES */

    /// @inheritdoc ILicenseRegistry
    function buy(uint64 offerId, uint32 version, uint128 payment, address recipient)
        external
        nonReentrant
        whenNotPaused
        returns (uint256 licenseId)
    {
        Payment memory due;
        (licenseId, due) = _sell(offerId, version, payment, recipient, msg.sender);
        _distribute(due, due.token.pull(msg.sender, due.price));
    }

    /// @inheritdoc ILicenseRegistry
    function buyWithPermit(uint64 offerId, uint32 version, uint128 payment, address recipient, Permit calldata permit)
        external
        nonReentrant
        whenNotPaused
        returns (uint256 licenseId)
    {
        Payment memory due;
        (licenseId, due) = _sell(offerId, version, payment, recipient, msg.sender);
        due.token.tryPermit(payment, permit);
        _distribute(due, due.token.pull(msg.sender, due.price));
    }

    /// @inheritdoc ILicenseRegistry
    function buyWithAuthorization(
        uint64 offerId,
        uint32 version,
        address recipient,
        address buyer,
        Authorization calldata authorization
    ) external nonReentrant whenNotPaused returns (uint256 licenseId) {
        Payment memory due;
        (licenseId, due) = _sell(offerId, version, type(uint128).max, recipient, buyer);
        bytes32 purpose = keccak256(abi.encode(BUY, offerId, version, recipient, authorization.salt));
        _distribute(due, due.token.pullAuthorized(buyer, due.price, purpose, authorization));
    }

    /* AUTHORITY */

    /// @inheritdoc ILicenseRegistry
    function pause() external restricted {
        _pause();
    }

    /// @inheritdoc ILicenseRegistry
    function unpause() external restricted {
        _unpause();
    }

    /* LICENCES */

    /// @inheritdoc ILicenseRegistry
    function revoke(uint256 licenseId, string calldata cause) external {
        require(_ownerOf(licenseId) != address(0), LicenseUnknown(licenseId));
        License storage license = _licenses[licenseId];
        _onlyProviderOf(_offers[license.offerId].ipId);
        require(!license.revoked, AlreadyRevoked(licenseId));
        require(bytes(cause).length <= TEXT_LENGTH_MAX, TextTooLong(bytes(cause).length, TEXT_LENGTH_MAX));

        license.revoked = true;
        _revocationCauses[licenseId] = cause;
        emit LicenseRevoked(licenseId, cause);
        emit MetadataUpdate(licenseId);
    }

    /* VIEWS */

    /// @inheritdoc ILicenseRegistry
    function verify(uint256 licenseId) public view returns (LicenseView memory) {
        address holder = _ownerOf(licenseId);
        require(holder != address(0), LicenseUnknown(licenseId));
        License memory license = _licenses[licenseId];
        Offer storage offer = _offers[license.offerId];
        bool expired = block.timestamp >= license.endsAt;
        return LicenseView({
            active: !license.revoked && !expired,
            status: license.revoked ? "revoked" : expired ? "expired" : "active",
            holder: holder,
            ipId: offer.ipId,
            version: license.version,
            offerId: license.offerId,
            startsAt: license.startsAt,
            endsAt: license.endsAt,
            paid: offer.terms.price,
            revocationCause: _revocationCauses[licenseId],
            terms: offer.terms
        });
    }

    /// @inheritdoc ILicenseRegistry
    function offerOf(uint64 offerId) external view returns (uint256 ipId, bool open, Terms memory terms) {
        Offer storage offer = _offers[offerId];
        require(offer.ipId != 0, OfferUnknown(offerId));
        return (offer.ipId, offer.open, offer.terms);
    }

    /// @notice On-chain JSON and SVG with the terms in words.
    function tokenURI(uint256 licenseId) public view override returns (string memory) {
        LicenseView memory license = verify(licenseId);
        return RENDERER.licenseURI(licenseId, IP_REGISTRY.nameOf(license.ipId), license);
    }

    /// @inheritdoc IERC7572
    function contractURI() external view returns (string memory) {
        return RENDERER.collectionURI(
            name(),
            symbol(),
            "Licences to datasets of consented contributions. Each token page says its terms in words."
        );
    }

    /// @inheritdoc IERC5192
    function locked(uint256 licenseId) external view returns (bool) {
        _requireOwned(licenseId);
        return !_termsOf(licenseId).transferable;
    }

    /// @inheritdoc IERC2981
    function royaltyInfo(uint256 licenseId, uint256 salePrice) external view returns (address, uint256) {
        _requireOwned(licenseId);
        Offer storage offer = _offers[_licenses[licenseId].offerId];
        return (IP_REGISTRY.providerOf(offer.ipId), Math.mulDiv(salePrice, offer.terms.resaleBps, BPS));
    }

    /// @inheritdoc IERC165
    function supportsInterface(bytes4 interfaceId) public view override(ERC721, IERC165) returns (bool) {
        return interfaceId == type(ILicenseRegistry).interfaceId || interfaceId == IERC4906_ID
            || interfaceId == type(IERC2981).interfaceId || interfaceId == type(IERC5192).interfaceId
            || interfaceId == type(IERC7572).interfaceId || super.supportsInterface(interfaceId);
    }

    /* INTERNAL */

    /// @dev Everything of a sale but taking the money.
    function _sell(uint64 offerId, uint32 version, uint128 payment, address recipient, address buyer)
        private
        returns (uint256 licenseId, Payment memory due)
    {
        Offer storage offer = _offers[offerId];
        uint256 ipId = offer.ipId;
        require(recipient != address(0), RecipientZero());
        require(ipId != 0, OfferUnknown(offerId));
        require(offer.open, OfferIsClosed(offerId));
        Sale memory sale = IP_REGISTRY.saleOf(ipId);
        require(version == sale.version, VersionNotForSale(ipId, version, sale.version));
        require(!sale.withdrawn, VersionHasWithdrawnMember(ipId, version));
        uint32 purposes = offer.terms.purposes;
        require(purposes & ~sale.purposes == 0, PurposesNotConsented(purposes, sale.purposes));
        due.price = offer.terms.price;
        require(payment >= due.price, PaymentBelowPrice(due.price, payment));
        due.provider = sale.provider;
        (address token, address pointsTreasury) = LOG.settlementOf(sale.provider);
        (due.token, due.pointsTreasury) = (IERC20(token), pointsTreasury);

        _split(due, offer.terms.contributorBps, sale);
        if (due.walletShare > 0) {
            uint96 walletWeight = uint256(sale.totalWeight - sale.pointsWeight).toUint96();
            _accrue(ipId, version, due.token, due.walletShare, walletWeight);
        }
        licenseId = ++licenseCount;
        _licenses[licenseId] = License({
            offerId: offerId,
            version: version,
            startsAt: uint64(block.timestamp),
            endsAt: _endOf(offer.terms.duration),
            revoked: false
        });
        _emitSold(licenseId, ipId, buyer, due);
        _mint(recipient, licenseId);
        if (offer.terms.transferable) emit Unlocked(licenseId);
        else emit Locked(licenseId);
    }

    function _emitSold(uint256 licenseId, uint256 ipId, address buyer, Payment memory due) private {
        License memory license = _licenses[licenseId];
        emit LicenseSold(
            licenseId,
            ipId,
            license.version,
            license.offerId,
            buyer,
            due.price,
            due.providerShare,
            due.pointsShare,
            due.walletShare,
            license.startsAt,
            license.endsAt
        );
    }

    /// @dev What a division leaves over goes to the wallets and to the provider.
    function _split(Payment memory due, uint16 contributorBps, Sale memory sale) private pure {
        uint256 pot = uint256(due.price) * contributorBps / BPS;
        uint256 points = pot * sale.pointsWeight / sale.totalWeight;
        due.providerShare = (uint256(due.price) - pot).toUint128();
        due.pointsShare = points.toUint128();
        due.walletShare = (pot - points).toUint128();
    }

    function _distribute(Payment memory due, uint256 received) private {
        require(received == due.price, AmountReceivedDiffers(due.price, received));
        if (due.providerShare > 0) due.token.safeTransfer(due.provider, due.providerShare);
        if (due.pointsShare > 0) due.token.safeTransfer(due.pointsTreasury, due.pointsShare);
    }

    /// @dev A duration that runs past what fits into 64 bits means for ever.
    function _endOf(uint64 duration) private view returns (uint64) {
        uint256 end = block.timestamp + duration;
        return end > type(uint64).max ? type(uint64).max : end.toUint64();
    }

    function _termsOf(uint256 licenseId) private view returns (Terms storage) {
        return _offers[_licenses[licenseId].offerId].terms;
    }

    function _onlyProviderOf(uint256 ipId) private view {
        address provider = IP_REGISTRY.providerOf(ipId);
        require(provider != address(0), DatasetUnknown(ipId));
        require(provider == msg.sender, OnlyProvider(provider, msg.sender));
    }

    /// @dev Minting is always possible; a transfer is where the terms allow it.
    function _update(address to, uint256 licenseId, address auth) internal override returns (address from) {
        from = super._update(to, licenseId, auth);
        if (from != address(0)) {
            require(_termsOf(licenseId).transferable, NotTransferable(licenseId));
            // The page names the holder.
            emit MetadataUpdate(licenseId);
        }
    }
}
